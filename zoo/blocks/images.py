"""The shape of a batch of images, which models and stems check alike, and what is said of one that is none."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from zoo.checks import shown, unboxed

TRANSFORM = "zoo.create_transform(model)"


def check_batch(x: Tensor, in_chans: int, *convolutions: tuple[int, int, int]) -> None:
    """Check the shape of a batch of images.

    Args:
        x: The images.
        in_chans: Channels that they must have.
        convolutions: Kernel, stride and padding of what they go through, one after another.

    Raises:
        ValueError: It is not ``(B, in_chans, H, W)``, or smaller than one window.
    """
    if x.ndim != 4 or x.shape[1] != in_chans:
        raise no_images(x, in_chans)
    size = x.shape[2], x.shape[3]
    for geometry in convolutions:
        size = conv_grid(size, *geometry)


def conv_grid(size: tuple[int, int], kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """Sizes of what a convolution makes of an image or a grid.

    Raises:
        ValueError: It is smaller than one window.
    """
    check_room(size, (kernel - 2 * padding,) * 2)
    return tuple((side + 2 * padding - kernel) // stride + 1 for side in size)


def map_of(y: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """The positions of an image as a map, without the tokens before them.

    Shape: ``(B, prefix + H * W, C) -> (B, H, W, C)``; what is a map already stays it.
    """
    return y[:, prefix:].unflatten(1, grid) if y.ndim == 3 else y


def check_room(img_size: Sequence[int], least: tuple[int, int]) -> None:
    """Check that an image gives at least one position.

    Raises:
        ValueError: It is smaller than `least` in a direction.
    """
    if img_size[0] < least[0] or img_size[1] < least[1]:
        raise ValueError(
            f"image size {img_size[0]} x {img_size[1]} is below the {least[0]} x {least[1]} of one position of the "
            "stem; use larger images"
        )


def no_images(x: Tensor, channels: int) -> Exception:
    """Why something is no batch of images, and what would be one."""
    wanted = f"expected images (B, {channels}, H, W)"
    if not isinstance(x, Tensor):
        return TypeError(f"{wanted} in a tensor, got {kind_of(x)}; {TRANSFORM} makes a tensor of a picture")
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


def kind_of(x: object) -> str:
    """What something that is no tensor is, in words."""
    return f"an object of type {type(x).__module__}.{type(x).__qualname__}".replace(" builtins.", " ")


def to_pair(size: int | Sequence[int], label: str = "size") -> tuple[int, int]:
    """A positive (height, width), from itself or from one side of a square.

    Raises:
        ValueError: It is neither.
    """
    size = size.tolist() if isinstance(size, np.ndarray) else unboxed(size)
    pair = (size, size) if type(size) is int else tuple(size) if isinstance(size, (list, tuple)) else ()
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"{label} is {shown(size)}; it must be a positive integer or (height, width) of two")
    return pair
