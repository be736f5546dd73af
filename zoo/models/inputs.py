"""What comes in at a model's door: images and vectors are looked at once, and a wrong one is told what would be right.

The look costs a right input a microsecond. It reads no values, and leaves nothing in a program that is recorded.
"""

import torch
from torch import Tensor, nn

from zoo.blocks.kernels import guard

TRANSFORM = "timm.data.create_transform(**timm.data.resolve_model_data_config(model))"
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
    shape = x.shape if isinstance(x, Tensor) and x.is_floating_point() else ()
    if len(shape) != 4 or shape[1] != model.in_chans or not (recording or (shape[2] and shape[3])):
        raise _no_images(x, model.in_chans)
    if not recording:
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
        raise TypeError(f"expected vectors (*, {width}) in a tensor, got {_kind(x)}; torch.as_tensor makes one of it")
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


def _no_images(x: Tensor, channels: int) -> Exception:
    """Why something is no batch of images, and what would be one."""
    wanted = f"expected images (B, {channels}, H, W)"
    if not isinstance(x, Tensor):
        return TypeError(f"{wanted} in a tensor, got {_kind(x)}; {TRANSFORM} makes a tensor of a picture")
    shape = tuple(x.shape)
    if not x.is_floating_point():
        return TypeError(
            f"{wanted} of floating-point numbers, got {x.dtype}; give bytes as `x.float() / 255`, normalised as in "
            f"training: {TRANSFORM} does it all"
        )
    if x.ndim == 4 and x.shape[1] == channels:
        return ValueError(f"{wanted}, got {shape}: an image size of {shape[2]} x {shape[3]} has no pixels")
    if x.ndim == 3 and x.shape[0] == channels:
        remedy = "one image becomes a batch of one by `x[None]`"
    elif x.ndim == 2 and channels == 1:
        remedy = "one image becomes a batch of one by `x[None, None]`"
    elif x.ndim == 3 and x.shape[2] == channels:
        remedy = "one image with channels last becomes a batch of one by `x.permute(2, 0, 1)[None]`"
    elif x.ndim == 3 and channels == 1:
        remedy = "images without channels get one by `x[:, None]`"
    elif x.ndim == 4 and x.shape[3] == channels:
        remedy = "channels come before height and width: `x.permute(0, 3, 1, 2)`"
    elif x.ndim == 4:
        grey = f"repeat the one channel by `x.expand(-1, {channels}, -1, -1)`, or " if x.shape[1] == 1 else ""
        remedy = f"{grey}create the model with in_chans={shape[1]}"
    else:
        remedy = f"{TRANSFORM} makes the (C, H, W) of a picture, and torch.stack a batch of these"
    return ValueError(f"{wanted}, got {shape}; {remedy}")


def _check_layout(x: Tensor, what: str) -> None:
    """Raises TypeError if a tensor holds only some of its numbers: no block computes with these."""
    if x.layout in SPARSE:
        raise TypeError(f"expected {what} in a dense tensor, got one of {x.layout}; give `x.to_dense()`")


def _kind(x: object) -> str:
    return f"an object of type {type(x).__module__}.{type(x).__qualname__}".replace(" builtins.", " ")


def _check_dtype(model: nn.Module, first: nn.Module, x: Tensor, what: str) -> None:
    """Check that floating-point numbers are those of the weights that they meet, unless something may convert them.

    Raises:
        TypeError: They are not.
    """
    dtype, found = _dtype(first) or _dtype(model), x.dtype
    if dtype is found or dtype is None:
        return
    # What follows is met by mistakes, autocast, and whatever converts in hooks or in classes of its own.
    cast = not x.is_meta and torch.is_autocast_enabled(x.device.type) and torch.float64 not in (found, dtype)
    if cast or not all(map(_leaves_input, first.modules())):
        return
    raise TypeError(
        f"expected {what} of {dtype} as the model's weights are, got {found}; give `x.to({dtype})`, or convert the "
        f"model by `model.to({found})`"
        + ("" if torch.float64 in (found, dtype) else ", or run it under torch.autocast")
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
