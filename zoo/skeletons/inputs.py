"""What comes in at a model's door: images and vectors are looked at once, and a wrong one is told what would be right.

The look costs a right input a few microseconds. It reads no values, and leaves nothing in a program that is recorded.
"""

import torch
from torch import Tensor, nn

from zoo.blocks.images import check_batch, kind_of, no_images
from zoo.blocks.kernels import guard

OWN = ("torch.nn.modules.", "zoo.")  # whose modules do not convert their input

STRIDED = torch.strided  # a name of its own is found sooner
SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def check_images(model: nn.Module, x: Tensor) -> None:
    """Check a batch of images; one of no images is right.

    Args:
        model: Has `in_chans`, and weights in its stem.
        x: What it was called with.

    Raises:
        TypeError: It is no tensor, a sparse one, or its numbers are not of the kind that the model computes with.
        ValueError: It is not ``(B, in_chans, H, W)``.
    """
    if guard.tracing():
        return
    recording = guard.compiling()  # then sizes and weights may be unknown
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise no_images(x, model.in_chans)
    check_batch(x, model.in_chans)
    if not recording:
        if not x.numel() and 0 in x.shape[2:]:
            raise no_images(x, model.in_chans)
        if x.layout is not STRIDED:
            _check_layout(x, "images")
        _check_dtype(model, model._modules["stem"], x, "images")  # an attribute of a module takes ten times as long


def check_vectors(model: nn.Module, first: nn.Module, x: Tensor, width: int) -> None:
    """Check vectors of a width, as `check_images` does images.

    Args:
        model: The model.
        first: The module that meets them.
        x: What the model was called with.
        width: Numbers in a vector.

    Raises:
        TypeError: It is no tensor, a sparse one, or its numbers are not of the kind that the model computes with.
        ValueError: Its last dimension has another size.
    """
    if guard.tracing():
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"expected vectors (*, {width}) in a tensor, got {kind_of(x)}; torch.as_tensor makes one of it")
    if not x.ndim or x.shape[-1] != width:
        raise ValueError(
            f"the input has the shape {tuple(x.shape)}; its last dimension must be the {width} "
            "numbers that this model was made for (in_chans)"
        )
    if not x.is_floating_point():
        raise TypeError(f"expected vectors of floating-point numbers, got {x.dtype}; give `x.float()`")
    if not guard.compiling():
        _check_layout(x, "vectors")
        _check_dtype(model, first, x, "vectors")


def _check_layout(x: Tensor, kind: str) -> None:
    """Raises TypeError if a tensor holds only some of its numbers: no block computes with these."""
    if x.layout in SPARSE:
        raise TypeError(f"expected {kind} in a dense tensor, got one of {x.layout}; give `x.to_dense()`")


def _check_dtype(model: nn.Module, first: nn.Module, x: Tensor, kind: str) -> None:
    """Check that floating-point numbers are those of the weights that they meet, unless something may convert them.

    Raises:
        TypeError: They are not.
    """
    dtype, input_dtype = _dtype(first) or _dtype(model), x.dtype
    if dtype is input_dtype or dtype is None:
        return
    # What follows is met by mistakes, autocast, and whatever converts in hooks or in classes of its own.
    cast = not x.is_meta and torch.is_autocast_enabled(x.device.type) and torch.float64 not in (input_dtype, dtype)
    if cast or not all(map(_leaves_input, first.modules())):
        return
    raise TypeError(
        f"expected {kind} of {dtype} as the model's weights are, got {input_dtype}; give `x.to({dtype})`, or convert "
        f"the model by `model.to({input_dtype})`"
        + ("" if torch.float64 in (input_dtype, dtype) else ", or run it under torch.autocast")
    )


def _dtype(module: nn.Module) -> torch.dtype | None:
    """That of the first floating-point parameter or buffer; without generators, which would take longer."""
    for tensor in module._parameters.values() if module._parameters else module._buffers.values():
        if tensor is not None and tensor.is_floating_point():
            return tensor.dtype
    for child in module._modules.values():
        if child is not None and (dtype := _dtype(child)) is not None:
            return dtype
    return None


def _leaves_input(module: nn.Module) -> bool:
    """Whether nothing can be at work in a module's call that converts its input."""
    hooked = module._forward_pre_hooks or "forward" in vars(module)
    return not hooked and type(module).__module__.startswith(OWN)
