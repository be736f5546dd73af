"""What a trained model predicts for every example of a split."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.training.data.batches import EvaluationBatches, loader
from zoo.training.data.splits import Split
from zoo.training.engine.precision import autocast
from zoo.training.evaluation import cpu_threads
from zoo.training.recipe.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Predictions:
    """Outputs of a model for the examples of a split that could be read, on the CPU.

    Attributes:
        outputs: Logits ``(N, C)``, in fp32.
        targets: What is right, as the task has it.
        indices: Which example of the split each is, ``(N,)``.
    """

    outputs: Tensor
    targets: Tensor
    indices: Tensor


@torch.no_grad()
def predict_split(
    model: nn.Module,
    recipe: Recipe,
    split: Split,
    *,
    task: str = "",
    device: torch.device | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Predictions:
    """Run the model over a split whose examples have classes.

    Raises:
        ValueError: The split is of another kind.
    """
    if split.kind not in ("image", "labels"):
        raise ValueError(f"the data are of kind {split.kind!r}, which has no classes of images to predict")
    train, device = recipe.train, device or next(model.parameters()).device
    objective, keywords = recipe.objectives[task].task, {"task": task} if task else {}
    batches = EvaluationBatches(split, objective, batch_size=train.batch_size, seed=train.seed)
    was_training = model.training
    model.eval()
    parts = []
    with cpu_threads(recipe):
        for number, (inputs, targets, counts) in enumerate(loader(batches, range(len(batches)))):
            progress(number, len(batches))
            with autocast(recipe.train.precision, device):
                outputs = model(inputs.to(device), **keywords)
            read = counts > 0
            first = number * train.batch_size
            indices = torch.arange(first, first + len(counts))[read]
            parts.append((outputs.float().cpu()[read], targets[read], indices))
    model.train(was_training)
    return Predictions(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
