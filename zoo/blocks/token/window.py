"""Attention within windows, and within windows shifted by half a window: the token mixers of Swin and SwinV2."""

import itertools
import math

import torch
from timm.layers import resize_rel_pos_bias_table, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.embed import to_pair
from zoo.blocks.kernels import onednn
from zoo.blocks.linear import Linear, is_bare
from zoo.blocks.register import register
from zoo.blocks.token.position_bias import OffsetMlp, log_offsets, relative_index

MASKED = -100.0  # what the authors add to the scores of positions that are no neighbours
CHUNK = 2**20  # scores at a time


def head_count(dim: int, heads: int | None, head_dim: int, what: str) -> int:
    """`heads`; or the most heads that divide `dim` and are at least `head_dim` wide, or one.

    Raises:
        ValueError: `heads` does not divide `dim`.
    """
    if heads is None:
        return next(n for n in range(max(1, dim // head_dim), 0, -1) if dim % n == 0)
    if heads < 1 or dim % heads:
        raise ValueError(f"{what} of dim {dim} cannot have {heads} heads; give heads= a divisor of dim")
    return heads


# --- Windows ----------------------------------------------------------------------------------------------------------


def window_order(
    grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], device=None
) -> tuple[Tensor | None, Tensor | None, tuple[int, ...]]:
    """How a grid that is rolled up and to the left by a shift, then filled with zeros below and on the right, is cut.

    The windows come in up to four groups, each of windows that need the same mask (see `shift_masks`): those inside,
    those that join the right side of the grid with the left, those that join bottom and top, and that of the corners.

    Returns:
        For each position of each window the position of the grid that stands there, or the grid's area for a zero,
        ``(windows, N)``; for each position of the grid its window and its position there, ``(2, H * W)``; the number
        of windows in each group. The first two are None for a whole number of windows without a shift.
    """
    (height, width), (h, w) = grid, window
    rows, columns = -(-height // h), -(-width // w)
    if not any(shift) and (rows * h, columns * w) == (height, width):
        return None, None, (rows * columns,)
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
    return masks.flatten(4, 5).flatten(2, 3).flatten(0, 1)[1:]


def cut_windows(x: Tensor, window: tuple[int, int], order: Tensor | None) -> Tensor:
    """The windows of images, rolled, filled and cut in one copy; `order` is that of `window_order`.

    Shape: ``(B, H, W, C) -> (windows, N, C)``; with an order, the windows of all images at one place come together.
    """
    batch, height, width, channels = x.shape
    if order is None:
        x = x.unflatten(1, (height // window[0], window[0])).unflatten(3, (width // window[1], window[1]))
        return x.transpose(2, 3).reshape(-1, window[0] * window[1], channels)
    x = x.flatten(1, 2)
    if order.numel() > x.shape[1]:
        x = F.pad(x, (0, 0, 0, 1))
    index = order[:, None] + torch.arange(0, batch * x.shape[1], x.shape[1], device=x.device)[:, None]
    return x.flatten(0, 1).index_select(0, index.flatten()).view(-1, order.shape[1], channels)


def merge_windows(x: Tensor, shape: torch.Size, window: tuple[int, int], inverse: Tensor | None) -> Tensor:
    """The images that `cut_windows` cut, again in one copy.

    Shape: ``(windows, N, C) -> (B, H, W, C)``.
    """
    batch, height, width, _ = shape
    if inverse is None:
        x = x.view(batch, height // window[0], width // window[1], *window, -1)
        return x.transpose(2, 3).reshape(shape)
    index = (inverse[0] * batch + torch.arange(batch, device=x.device)[:, None]) * x.shape[1] + inverse[1]
    return x.flatten(0, 1).index_select(0, index.flatten()).view(shape)


# --- Attention --------------------------------------------------------------------------------------------------------


def attend_windows(
    q: Tensor, k: Tensor, v: Tensor, biases: list[Tensor], counts: list[int], scale: float, drop: float = 0.0
) -> Tensor:
    """``softmax(scale q k^T + bias) v`` in each window; each bias holds for its count of windows, one after another.

    On the CPU the fused call has no gradient of the bias, so that training takes two products. Without gradients it is
    1.1 to 1.4 times as fast as they in fp32, and half as fast in bf16 (torch 2.15, Zen 4, windows of 7 x 7).

    Shape: ``(windows, N, heads, D)`` three times and ``(heads, N, N)`` for each bias ``-> (windows, N, heads, D)``.
    """
    tokens, heads, width = q.shape[1:]
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if q.device.type == "cpu" and torch.is_grad_enabled():
        q, k, v = (t.reshape(-1, tokens, width) for t in (q, k, v))
        rows = [bias.to(q.dtype).repeat(n, 1, 1) for bias, n in zip(biases, counts, strict=True)]
        scores = (rows[0] if len(rows) == 1 else torch.cat(rows)).baddbmm_(q, k.transpose(1, 2), alpha=scale)
        y = torch.bmm(F.dropout(scores.softmax(-1), drop), v)
        return y.unflatten(0, (-1, heads)).transpose(1, 2)
    if q.device.type == "cpu" and q.element_size() == 2 and not torch.compiler.is_compiling():
        return _attend_half(q, k, v, biases, counts, scale)
    y = [
        F.scaled_dot_product_attention(*qkv, bias[None].to(q.dtype), drop, scale=scale).transpose(1, 2)
        for *qkv, bias in zip(*(t.split(counts) for t in (q, k, v)), biases, strict=True)
    ]
    return y[0] if len(y) == 1 else torch.cat(y)


def _attend_half(q: Tensor, k: Tensor, v: Tensor, biases: list[Tensor], counts: list[int], scale: float) -> Tensor:
    """The same in bf16 or fp16 without gradients: products in that type, softmax in fp32, a few windows at a time.

    The softmax of torch takes twice as long in bf16 as in fp32 for rows of 49.
    """
    windows, heads, tokens, width = q.shape
    step = max(1, CHUNK // biases[0].numel())
    y, zero = q.new_empty(windows, tokens, heads, width), q.new_zeros(1, 1, 1)
    stops = list(itertools.accumulate(counts))
    for i in range(0, windows, step):
        a, b, c = (t[i : i + step].reshape(-1, tokens, width) for t in (q, k, v))
        # What beta = 0 multiplies is not read.
        scores = torch.baddbmm(zero, a, b.transpose(1, 2), beta=0, alpha=scale).float().unflatten(0, (-1, heads))
        for bias, n, stop in zip(biases, counts, stops):
            if stop > i and stop - n < i + step:
                scores[max(stop - n - i, 0) : stop - i].add_(bias)
        weights = scores.softmax(-1).to(q.dtype).flatten(0, 1)
        y[i : i + step] = torch.bmm(weights, c).unflatten(0, (-1, heads)).transpose(1, 2)
    return y


@register("token_mixer", "window")
class WindowAttention(nn.Module):
    needs_grid = True
    any_grid = True
    spatial = frozenset({1, 2})
    no_decay = ("relative_position_bias_table", "logit_scale", "q_bias", "v_bias")
    shifted = False

    def __init__(
        self,
        dim: int,
        *,
        window_size: int | tuple[int, int] = 7,
        heads: int | None = None,
        head_dim: int = 32,
        qkv_bias: bool = True,
        cosine: bool = False,
        pretrained_window: int = 0,
        attn_drop: float = 0.0,
        drop: float = 0.0,
        init: str = "trunc_normal",
        grid: tuple[int, ...],
        device=None,
        dtype=None,
    ):
        super().__init__()
        if pretrained_window and not cosine:
            raise ValueError(
                f"window attention with a table of biases cannot use pretrained_window={pretrained_window}; "
                "leave it out or add cosine=True"
            )
        self.heads = head_count(dim, heads, head_dim, "window attention")
        self.window_size, self.pretrained_window = to_pair(window_size, "window_size"), pretrained_window
        self.attn_drop, self.grid = attn_drop, tuple(grid)
        self.window, self.shift = self._window()
        dd = {"device": device, "dtype": dtype}
        self.qkv = Linear(dim, 3 * dim, qkv_bias and not cosine, init=(init,) * 3, **dd)
        self.proj = Linear(dim, dim, init=init, **dd)
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.relative_position_bias_table = self.logit_scale = self.cpb_mlp = self.q_bias = self.v_bias = None
        if cosine:
            self.cpb_mlp = OffsetMlp(self.heads, **dd)
            self.logit_scale = nn.Parameter(torch.empty(self.heads, 1, 1, **dd))
            if qkv_bias:
                self.q_bias, self.v_bias = (nn.Parameter(torch.empty(dim, **dd)) for _ in "qv")
        else:
            offsets = math.prod(2 * side - 1 for side in self.window)
            self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, self.heads, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.cpb_mlp is None:
            trunc_normal_(self.relative_position_bias_table, std=0.02)
        else:
            nn.init.constant_(self.logit_scale, math.log(10))
            if self.q_bias is not None:
                nn.init.zeros_(self.q_bias)
                nn.init.zeros_(self.v_bias)
        self._make_tables()

    def _sides(self, size):
        return size if len(self.grid) == 2 else (1, math.prod(size))

    def _window(self):
        image, sides = (1, *self.grid)[-2:], self._sides(self.window_size)
        window = tuple(map(min, image, sides))
        return window, tuple(side // 2 if self.shifted and size > side else 0 for size, side in zip(image, sides))

    def _make_tables(self) -> None:
        weight = self.proj.weight
        order, inverse, self.counts = window_order((1, *self.grid)[-2:], self.window, self.shift, weight.device)
        masks = shift_masks(self.window, self.shift, weight.device, weight.dtype)
        offsets = None
        if self.cpb_mlp is not None:
            pretrained = self._sides((self.pretrained_window,) * 2) if self.pretrained_window else None
            offsets = log_offsets(self.window, pretrained, weight.device).to(weight.dtype)
        index = relative_index(self.window, weight.device)
        for name, table in {
            "order": order,
            "inverse": inverse,
            "masks": masks,
            "relative_position_index": index,
            "relative_coords_table": offsets,
        }.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        image = x if x.ndim == 4 else x[:, None]
        order, inverse, counts = self.order, self.inverse, self.counts
        if x.shape[1:-1] != self.grid:
            order, inverse, counts = window_order(tuple(image.shape[1:3]), self.window, self.shift, x.device)
        y = self._attend(self._qkv(cut_windows(image, self.window, order)), [n * x.shape[0] for n in counts])
        y = self.proj(merge_windows(y, image.shape, self.window, inverse)).view(x.shape)
        return y if self.drop is None else self.drop(y)

    def _qkv(self, x: Tensor) -> Tensor:
        if self.q_bias is None:
            return self.qkv(x)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        if not is_bare(self.qkv, Linear):
            return self.qkv(x) + bias
        return (onednn.linear if onednn.usable(x, self.qkv.weight) else F.linear)(x, self.qkv.weight, bias)

    def _attend(self, qkv: Tensor, counts: list[int]) -> Tensor:
        drop = self.attn_drop if self.training else 0.0
        bias = self._bias()
        biases = [bias, *(bias + mask for mask in self.masks.to(bias.dtype))]
        qkv = qkv.unflatten(-1, (3, self.heads, -1))
        if self.cpb_mlp is None:
            q, k, v = qkv.unbind(2)
            return attend_windows(q, k, v, biases, counts, q.shape[-1] ** -0.5, drop).flatten(2)
        qk, v = qkv.split([2, 1], dim=2)
        factor = self.logit_scale.clamp(max=math.log(100)).exp().squeeze(-1)
        factor = torch.stack([factor, torch.ones_like(factor)])
        q, k = (qk * (factor / torch.linalg.vector_norm(qk, dim=-1, keepdim=True).clamp_min(1e-12))).unbind(2)
        return attend_windows(q, k, v.squeeze(2), biases, counts, 1.0, drop).flatten(2)

    def _bias(self) -> Tensor:
        """The bias of each pair of positions, gathered anew: the table may have changed in place."""
        table = self.relative_position_bias_table
        if table is None:
            table = self.cpb_mlp(self.relative_coords_table)
        if table.element_size() == 2 and not torch.is_grad_enabled():
            table = table.float()
        area = self.window[0] * self.window[1]
        return table.t().gather(1, self.relative_position_index.expand(self.heads, -1)).view(-1, area, area)


@register("token_mixer", "shifted_window")
class ShiftedWindowAttention(WindowAttention):
    shifted = True
