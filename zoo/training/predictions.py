"""What a trained model says of every example of a split: for confusion matrices, worst mistakes, calibration."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.training.data.batches import Split
from zoo.training.evaluation import measuring, outputs_of
from zoo.training.recipe.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Predictions:
    """Outputs and targets of the examples of a split that could be read, on the CPU and in the order of the split.

    `recipe.objectives[task].task.meter(split.num_classes)`, updated with the two, has the metrics and their tables.
    """

    outputs: Tensor  # (N, C): logits, in float32
    targets: Tensor  # (N,): classes; or (N, C): labels of 0 and 1, NaN where unknown
    indices: Tensor  # (N,): the numbers of the examples in the split


def predict_split(
    model: nn.Module,
    recipe: Recipe,
    split: Split,
    *,
    task: str = "",
    device: torch.device | str | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Predictions:
    """A model's outputs for every example of a split, in the recipe's precision and threads.

    Args:
        model: The model. It is in the mode, and on the device, that it was before.
        recipe: What it was trained by.
        split: Images with a class or with several labels each.
        task: Of a recipe with several tasks, the name of one.
        device: Where to compute; by default where the model is.
        progress: Called with how many batches are done, and of how many.

    Raises:
        ValueError: The split has something for every pixel, or numbers to fit; a picture cannot be read, and the recipe
            does not say to skip it; or none can.
    """
    if split.kind not in ("image", "labels"):
        raise ValueError(
            f"the data are of the kind {split.kind}, and predictions are kept of images with a class or with labels "
            "alone (kinds image and labels): measure the others by zoo.training.evaluate"
        )
    home = next(model.parameters()).device
    outputs, targets, indices = [], [], []
    try:
        model.to(home if device is None else device)
        with measuring(model, recipe):
            for batch in outputs_of(model, recipe, split, task=task, progress=progress):
                for values, kept in zip(batch, (outputs, targets, indices), strict=True):
                    kept.append(values.cpu())
    finally:
        model.to(home)
    if not sum(map(len, indices)):
        raise ValueError("none of the pictures to predict can be read: repair them, or give others")
    return Predictions(torch.cat(outputs), torch.cat(targets), torch.cat(indices))
