"""Images cut into windows and put together again, for mixers that work within windows."""

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.blocks.kernels.symbolic import settle_sizes

MASKED = -100.0  # what Swin's authors add to the scores of positions that are no neighbours


def image_of_grid(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """``(B, *S, C)`` with as many position dimensions as a grid, as ``(B, H, W, C)``.

    Raises:
        ValueError: It has another number of them.
    """
    if x.ndim != len(grid) + 2:
        raise ValueError(f"a mixer of windows for the grid {grid} got an input of shape {tuple(x.shape)}")
    settle_sizes(x, *range(1, x.ndim - 1))
    return x if x.ndim == 4 else x[:, None]


def window_order(
    grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], device=None
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """How a grid that is rolled up and to the left by a shift, then filled with zeros below and on the right, is cut.

    The windows come in up to four groups, each of windows that need the same mask (see `shift_masks`): those inside,
    those that join the right side of the grid with the left, those that join bottom and top, and that of the corners.

    Returns:
        For each position of each window the position of the grid that stands there, or the grid's area for a zero,
        ``(windows, N)``; for each position of the grid its window and its position there, ``(2, H * W)``; the number
        of windows in each group.
    """
    (height, width), (h, w) = grid, window
    rows, columns = -(-height // h), -(-width // w)
    if device is not None and torch.device(device).type == "meta":  # shapes alone, without slow arithmetic on them
        sizes = [(n - 1, 1) if s else (n,) for n, s in zip((rows, columns), shift, strict=True)]
        make = lambda *shape: torch.empty(shape, dtype=torch.long, device=device)
        counts = tuple(a * b for a in sizes[0] for b in sizes[1])
        return make(rows * columns, h * w), make(2, height * width), counts
    halves = [(slice(-1), slice(-1, None)) if s else (slice(None),) for s in shift]
    ids = torch.arange(rows * columns, device=device).view(rows, columns)
    groups = [ids[i, j].flatten() for i in halves[0] for j in halves[1]]
    ids = torch.cat(groups)

    y, x = torch.arange(rows * h, device=device)[:, None], torch.arange(columns * w, device=device)
    source = (y + shift[0]) % height * width + (x + shift[1]) % width
    source = source.masked_fill((y >= height) | (x >= width), height * width)
    order = source.unflatten(0, (rows, h)).unflatten(2, (columns, w)).transpose(1, 2).reshape(-1, h * w)[ids]

    y, x = (y[:height] - shift[0]) % height, (x[:width] - shift[1]) % width
    inverse = torch.stack([ids.argsort()[y // h * columns + x // w], y % h * w + x % w])
    return order, inverse.flatten(1), tuple(map(len, groups))


def shift_masks(window: tuple[int, int], shift: tuple[int, int], device=None, dtype=None) -> Tensor:
    """What is added to the scores in the groups of `window_order` but the first: positions that were not adjacent.

    Shape: ``(groups - 1, N, N)`` for windows of N positions.
    """
    wrapped = [torch.arange(side, device=device) >= side - s for side, s in zip(window, shift, strict=True)]
    down, across = (side[:, None] != side for side in wrapped)
    masks = torch.zeros(2, 2, *window, *window, device=device, dtype=dtype)
    masks[1].masked_fill_(down[:, None, :, None], MASKED)
    masks[:, 1].masked_fill_(across[None, :, None], MASKED)
    masks = masks[: 1 + (shift[0] > 0), : 1 + (shift[1] > 0)]
    # A tensor of its own: `torch.export.save` cannot write an empty part of a larger one.
    return masks.flatten(4, 5).flatten(2, 3).flatten(0, 1)[1:].clone()


def cut_windows(x: Tensor, window: tuple[int, int], order: Tensor | None = None) -> Tensor:
    """The windows of images in one copy: as they lie, or rolled and filled in the order of `window_order`.

    Shape: ``(B, H, W, C) -> (windows, N, C)``; with an order, the windows of all images at one place come together.
    """
    batch, height, width, channels = x.shape
    if order is None:
        x = x.unflatten(2, (width // window[1], window[1])).unflatten(1, (height // window[0], window[0]))
        places = height // window[0] * (width // window[1])
        return x.transpose(2, 3).reshape(batch * places, window[0] * window[1], channels)
    x = x.flatten(1, 2)
    if order.numel() > height * width:
        x = F.pad(x, (0, 0, 0, 1))
    index = order[:, None] + torch.arange(batch, device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, index.flatten()).view(order.shape[0] * batch, order.shape[1], channels)


def merge_windows(x: Tensor, shape: torch.Size, window: tuple[int, int], inverse: Tensor | None = None) -> Tensor:
    """The images of a shape that `cut_windows` cut, again in one copy.

    Shape: ``(windows, N, C) -> (B, H, W, C)``.
    """
    batch, height, width, _ = shape
    if inverse is None:
        x = x.view(batch, height // window[0], width // window[1], *window, shape[-1])
        return x.transpose(2, 3).reshape(shape)
    index = (inverse[0] * batch + torch.arange(batch, device=x.device)[:, None]) * x.shape[1] + inverse[1]
    return x.flatten(0, 1).index_select(0, index.flatten()).view(shape)
