"""What a model is called with to count its costs: a sample of a size without values, or what the caller gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.blocks.mixer import Part, trait
from zoo.checks import check_type, shown, unboxed
from zoo.skeletons.image import ImageModel
from zoo.weights.pretrained import SIZE

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Any] | None


@dataclass(frozen=True)
class Call:
    """What a model is called with, and how many samples that is."""

    args: tuple[Tensor, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in the order of the arguments."""
        return [x for x in (*self.args, *self.keywords.values()) if isinstance(x, Tensor)]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of all tensors."""
        return tuple(tuple(x.shape) for x in self.tensors)

    def on(self, device: torch.device) -> "Call":
        """Copies on a device, of zeros where these have no values."""
        keywords = {name: _moved(x, device) if isinstance(x, Tensor) else x for name, x in self.keywords.items()}
        return Call(tuple(_moved(x, device) for x in self.args), keywords, self.samples)


def _moved(x: Tensor, device: torch.device) -> Tensor:
    return torch.zeros_like(x, device=device) if x.is_meta else x.to(device, copy=True)


def call_of(model: nn.Module, input_size: Sequence[int] | None, inputs: Inputs, batch_size: int | None) -> Call:
    """What a model is called with, of the arguments of `zoo.count_flops`.

    Raises:
        ValueError: The input size is not known, or given twice, or there is no sample.
        TypeError: A size is no sequence of whole numbers, or an input no tensor.
    """
    batch_size = unboxed(batch_size)
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise ValueError(f"batch_size is {shown(batch_size)}; it must be a number of samples, 1 or more")
    if inputs is None:
        samples = batch_size or 1
        floats = (p.dtype for p in model.parameters() if p.is_floating_point())
        x = _without_values((samples, *_input_size(model, input_size)), next(floats, None))
        return Call((x,), samples=samples)
    if input_size is not None:
        raise ValueError("give input_size or inputs, not both")
    call = _given(inputs)
    first = call.tensors[0]
    samples = batch_size or (first.shape[0] if first.dim() else 1)
    if not samples:
        raise ValueError("inputs hold a batch of no samples, and costs are those of one; give at least one")
    return Call(call.args, call.keywords, samples)


def _given(inputs: Tensor | Sequence[Tensor] | Mapping[str, Any]) -> Call:
    """Tensors in their order, or arguments by their names, of which not all have to be tensors."""
    if isinstance(inputs, Mapping) and any(isinstance(x, Tensor) for x in inputs.values()):
        return Call(keywords=dict(inputs))
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(inputs, Sequence) or not all(isinstance(x, Tensor) for x in inputs):
        what = "it must be a tensor, a list of those that the model takes, or a mapping of its arguments by name"
        raise TypeError(f"inputs is {shown(inputs)}; {what}")
    if not inputs:
        raise ValueError("inputs is empty; give the tensors that the model is called with")
    return Call(tuple(inputs))


def _input_size(model: nn.Module, input_size: Sequence[int] | None) -> tuple[int, ...]:
    """The size of one sample: what the caller asks for, or else what the model says of itself."""
    config = trait(model, "pretrained_cfg", Part) or {}
    if isinstance(input_size, Tensor):
        raise TypeError(f"input_size is a tensor of shape {tuple(input_size.shape)}; give a tensor as inputs=")
    if isinstance(input_size, Mapping) or (
        isinstance(input_size, Sequence) and any(isinstance(x, Tensor) for x in input_size)
    ):
        raise TypeError(f"input_size is a {type(input_size).__name__} of what the model takes; give it as inputs=")
    input_size = input_size.tolist() if isinstance(input_size, np.ndarray) else unboxed(input_size)
    if input_size is not None:
        check_type("input_size", input_size, SIZE)
    size = next((s for s in (input_size, trait(model, "input_size", Part), config.get("input_size")) if s), None)
    if size is None:
        raise ValueError(f"{type(model).__name__} does not tell its input size; give input_size=(C, H, W) or inputs=")
    if input_size and isinstance(model, ImageModel) and (len(input_size) != 3 or input_size[0] != model.in_chans):
        raise ValueError(
            f"input_size is {shown(input_size)}; it must be that of one image, ({model.in_chans}, height, width), and "
            "the number of images is batch_size="
        )
    return tuple(size)


def _without_values(shape: tuple[int, ...], dtype: torch.dtype | None) -> Tensor:
    try:
        return torch.empty(shape, dtype=dtype, device="meta")
    except RuntimeError:  # what torch says of more bytes than it counts
        raise ValueError(f"an input of shape {shown(shape)} is larger than any memory; give smaller sizes") from None
