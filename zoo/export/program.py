"""A model as a program of torch's, in the form for inference."""

import copy
import warnings

import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from zoo.blocks.mixer import offers, trait
from zoo.export.layout import without_transpositions
from zoo.export.quiet import Refused, cause

LARGEST = 4096  # pixels of a side, of a program for images of any size


def deployed(model: nn.Module) -> nn.Module:
    """A model as it would be deployed: a copy in eval mode, its parallel branches merged where it has such."""
    model = copy.deepcopy(model).eval()
    if not offers(model, "reparameterize"):
        return reparameterize_model(model, inplace=True)
    model.reparameterize()
    return model


@torch.no_grad()
def without_zeros(model: nn.Module) -> nn.Module:
    """The model with noise in the parameters that are all zero: heads that begin so would make all outputs alike."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and not parameter.any():
            parameter.normal_(std=0.02)
    return model


def relative_difference(outputs: Tensor, expected: Tensor) -> float:
    """The largest difference of an output, over the largest output that is expected."""
    return ((outputs - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()


def program_of(
    model: nn.Module,
    x: Tensor,
    *,
    batch: bool = True,
    most_samples: int | None = None,
    size: bool = False,
    layout: bool = True,
) -> ExportedProgram:
    """What a model computes, as `torch.export` records it.

    Args:
        model: In eval mode.
        x: An example of its input, of two samples or more where the batch is open.
        batch: Take batches of any size.
        most_samples: The largest of these batches.
        size: Take images of any size, in steps of the model's reduction.
        layout: Take out the permutations that runtimes other than torch's would copy for.

    Shape: ``x`` is ``(B, C, H, W)`` or ``(B, N)``.

    Raises:
        ValueError: The model cannot be recorded, or only for one size of images; the message says why.
    """
    open_dims: dict[int, Dim] = {0: Dim("batch", min=1, max=most_samples)} if batch else {}
    if size:
        step = reduction_of(model)
        open_dims |= {d: step * Dim(f"{name}_{step}", min=2, max=LARGEST // step) for d, name in ((2, "h"), (3, "w"))}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (x,), dynamic_shapes=(open_dims,) if open_dims else None)
    except Exception as error:  # whatever the recorder may raise
        remedy = ""
        if open_dims and "Constraints violated" in str(error):
            which = " and ".join(["dynamic_batch=False"] * batch + ["dynamic_size=False"] * size)
            remedy = f"; its program depends on the sizes: give {which} for one of them alone"
        raise Refused(f"{type(model).__name__} cannot be recorded by torch.export: {cause(error)}{remedy}") from error
    return without_transpositions(program) if layout else program


def reduction_of(model: nn.Module) -> int:
    """Pixels of the image to one position of the last feature map, of a model that takes images of any size.

    Raises:
        ValueError: It takes one size alone.
    """
    for name, module in model.named_modules():
        if trait(module, "cuts_grid") or (trait(module, "needs_grid") and not trait(module, "any_grid")):
            raise ValueError(
                f"{type(model).__name__} cannot be exported for images of any size: {name} ({type(module).__name__}) "
                "belongs to one grid; leave the image size fixed, and export once for each size (img_size=)"
            )
    info = getattr(model, "feature_info", None)
    if not info or not getattr(model, "input_size", None):
        raise ValueError(
            f"{type(model).__name__} does not tell the reduction of its feature maps; leave the image size fixed"
        )
    return info[-1]["reduction"]
