"""Attention within windows, and within windows shifted by half a window: the token mixers of Swin and SwinV2."""

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

MASKED = -100.0  # what the authors add to the scores of pairs that are no neighbours
CHUNK = 2**19  # scores at a time


# --- Windows ----------------------------------------------------------------------------------------------------------


def image_grid(grid: tuple[int, ...]) -> tuple[int, int]:
    """A grid of one or two dimensions as that of an image: a sequence is an image of height 1."""
    return (1, *grid)[-2:]


def window_sides(window_size: tuple[int, int], grid: tuple[int, ...]) -> tuple[int, int]:
    """The window asked for on a grid: itself on an image, as many positions in a row on a sequence."""
    return window_size if len(grid) == 2 else (1, math.prod(window_size))


def head_count(dim: int, heads: int | None, head_dim: int, what: str) -> int:
    """`heads`, or the most heads that are at least `head_dim` wide and divide `dim`.

    Raises:
        ValueError: `heads` does not divide `dim`.
    """
    if heads is None:
        return next(h for h in range(max(1, dim // head_dim), 0, -1) if dim % h == 0)
    if heads < 1 or dim % heads:
        raise ValueError(f"{what} of dim {dim} cannot have {heads} heads; give heads= a divisor of dim")
    return heads


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
    rows, columns = (-(-size // side) for size, side in zip(grid, window, strict=True))
    halves = [(slice(-1), slice(-1, None)) if s else (slice(None),) for s in shift]
    ids = torch.arange(rows * columns, device=device).view(rows, columns)
    groups = [ids[i, j].flatten() for i in halves[0] for j in halves[1]]
    ids = torch.cat(groups)

    y, x = torch.arange(rows * h, device=device)[:, None], torch.arange(columns * w, device=device)
    source = (y + shift[0]) % height * width + (x + shift[1]) % width
    source = source.masked_fill((y >= height) | (x >= width), height * width)
    order = source.unflatten(0, (rows, h)).unflatten(2, (columns, w)).transpose(1, 2).reshape(-1, h * w)[ids]

    y = (torch.arange(height, device=device)[:, None] - shift[0]) % height
    x = (torch.arange(width, device=device) - shift[1]) % width
    place = ids.argsort()[y // h * columns + x // w], y % h * w + x % w
    return order, torch.stack(place).flatten(1), tuple(map(len, groups))


def shift_masks(window: tuple[int, int], shift: tuple[int, int], device=None, dtype=None) -> Tensor:
    """What is added to the scores in the groups of `window_order` but the first: positions that were not adjacent.

    Shape: ``(groups - 1, N, N)`` for windows of N positions.
    """
    wrapped = [torch.arange(side, device=device) >= side - s for side, s in zip(window, shift, strict=True)]
    down, across = (side[:, None] != side for side in wrapped)
    down, across = down[:, None, :, None], across[None, :, None]
    masks = torch.zeros(2, 2, *window, *window, device=device, dtype=dtype)
    masks[1].masked_fill_(down, MASKED)
    masks[:, 1].masked_fill_(across, MASKED)
    masks = masks[: 1 + (shift[0] > 0), : 1 + (shift[1] > 0)]
    return masks.flatten(4, 5).flatten(2, 3).flatten(0, 1)[1:]


def cut_windows(x: Tensor, window: tuple[int, int], order: Tensor | None) -> Tensor:
    """The windows of an image in one copy: a whole number of windows as they lie, or in the order of `window_order`.

    Shape: ``(B, H, W, C) -> (windows, N, C)``; with an order, the windows of all images at one place follow another.
    """
    if order is None:
        height, width = (size // side for size, side in zip(x.shape[1:], window))
        return x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0])).transpose(2, 3).flatten(3, 4).flatten(0, 2)
    batch, x = x.shape[0], x.flatten(1, 2)
    if order.numel() > x.shape[1]:
        x = F.pad(x, (0, 0, 0, 1))
    first = torch.arange(batch, device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (order[:, None] + first).flatten()).unflatten(0, (-1, order.shape[1]))


def merge_windows(x: Tensor, shape: torch.Size, window: tuple[int, int], inverse: Tensor | None) -> Tensor:
    """The image of a shape from its windows: the inverse of `cut_windows`.

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
    """``softmax(scale q k^T + bias) v`` in each window; each bias holds for a number of windows in turn.

    Shape: ``(windows, N, heads, D)`` three times and ``(heads, N, N)`` for each bias ``-> (windows, N, heads, D)``.
    """
    tokens, heads = q.shape[1:3]
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if q.device.type == "cpu" and torch.is_grad_enabled():
        q, k, v = (t.reshape(-1, tokens, t.shape[-1]) for t in (q, k, v))
        rows = [b.to(q.dtype).repeat(n, 1, 1) for b, n in zip(biases, counts, strict=True)]
        scores = (rows[0] if len(rows) == 1 else torch.cat(rows)).baddbmm_(q, k.transpose(1, 2), alpha=scale)
        return torch.bmm(F.dropout(scores.softmax(-1), drop), v).unflatten(0, (-1, heads)).transpose(1, 2)
    if q.device.type == "cpu" and q.element_size() == 2:
        return _products(q, k, v, biases, counts, scale)
    parts = zip(*(t.split(counts) for t in (q, k, v)), biases, strict=True)
    y = [F.scaled_dot_product_attention(*p, b[None], drop, scale=scale).transpose(1, 2) for *p, b in parts]
    return y[0] if len(y) == 1 else torch.cat(y)


def _products(q, k, v, biases, counts, scale):
    windows, heads, tokens, width = q.shape
    step = windows if torch.compiler.is_compiling() else max(1, CHUNK // biases[0].numel())
    y, zero = v.new_empty(windows, tokens, heads, width), q.new_zeros(1, 1, 1)
    biases = [b.float() for b in biases]
    for i in range(0, windows, step):
        a, b, c = (t[i : i + step].reshape(-1, tokens, width) for t in (q, k, v))
        scores = torch.baddbmm(zero, a, b.transpose(1, 2), beta=0, alpha=scale).float().unflatten(0, (-1, heads))
        start = -i
        for n, bias in zip(counts, biases):
            if start < step and start + n > 0:
                scores[max(start,0) : start + n].add_(bias)
            start += n
        scores = scores.softmax(-1).to(c.dtype).flatten(0, 1)
        y[i : i + step] = torch.bmm(scores, c).unflatten(0, (-1, heads)).transpose(1, 2)
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
                f"window attention with a bias table has no use for pretrained_window={pretrained_window}; "
                "leave it out, or add cosine=True"
            )
        self.heads = head_count(dim, heads, head_dim, "window attention")
        self.pretrained_window, self.attn_drop = pretrained_window, attn_drop
        self.window_size, self.grid = to_pair(window_size, "window_size"), tuple(grid)
        dd = {"device": device, "dtype": dtype}
        self.qkv = Linear(dim, 3 * dim, qkv_bias and not cosine, init=(init,) * 3, **dd)
        self.proj = Linear(dim, dim, init=init, **dd)
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.cpb_mlp = self.relative_position_bias_table = self.logit_scale = self.q_bias = self.v_bias = None
        if cosine:
            self.cpb_mlp = OffsetMlp(self.heads, **dd)
            self.logit_scale = nn.Parameter(torch.empty(self.heads, 1, 1, **dd))
            if qkv_bias:
                self.q_bias, self.v_bias = (nn.Parameter(torch.empty(dim, **dd)) for _ in range(2))
        else:
            sides = zip(image_grid(self.grid), window_sides(self.window_size, self.grid), strict=True)
            rows = math.prod(2 * min(pair) - 1 for pair in sides)
            self.relative_position_bias_table = nn.Parameter(torch.empty(rows, self.heads, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.logit_scale is None:
            trunc_normal_(self.relative_position_bias_table, std=0.02)
        else:
            nn.init.constant_(self.logit_scale, math.log(10))
            for bias in (self.q_bias, self.v_bias):
                if bias is not None:
                    nn.init.zeros_(bias)
        self._place()

    def _place(self) -> None:
        """Window, shift and tables of the grid, none of which is saved."""
        grid, sides = image_grid(self.grid), window_sides(self.window_size, self.grid)
        self.window = tuple(min(pair) for pair in zip(grid, sides, strict=True))
        self.shift = tuple(s // 2 if self.shifted and g > s else 0 for g, s in zip(grid, sides, strict=True))
        like = {"device": self.proj.weight.device, "dtype": self.proj.weight.dtype}
        order, inverse, _ = self._order(grid, like["device"])
        tables = {"order": order, "inverse": inverse}
        tables["masks"] = shift_masks(self.window, self.shift, **like)
        tables["relative_position_index"] = relative_index(self.window, like["device"])
        if self.logit_scale is not None:
            pretrained = window_sides((self.pretrained_window,) * 2, self.grid) if self.pretrained_window else None
            tables["relative_coords_table"] = log_offsets(self.window, pretrained, like["device"]).to(like["dtype"])
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def _order(self, grid, device):
        if not any(self.shift) and not any(g % w for g, w in zip(grid, self.window, strict=True)):
            return None, None, None
        return window_order(grid, self.window, self.shift, device)

    def forward(self, x: Tensor) -> Tensor:
        image = x if x.ndim == 4 else x[:, None]
        order, inverse = self.order, self.inverse
        if x.shape[1:-1] != self.grid:
            order, inverse = self._order(image.shape[1:-1], x.device)
        y = self._attend(self._qkv(cut_windows(image, self.window, order)), image.shape)
        y = self.proj(merge_windows(y, image.shape, self.window, inverse)).view(x.shape)
        return y if self.drop is None else self.drop(y)

    def _attend(self, qkv: Tensor, shape) -> Tensor:
        drop = self.attn_drop if self.training else 0.0
        bias = self._bias()
        biases = [bias, *(bias + mask for mask in self.masks)]
        rows, columns = (-(-g // w) for g, w in zip(shape[1:], self.window))
        a, b = (int(s > 0) for s in self.shift)
        counts = [(rows-a)*(columns-b)] + [(rows-a)*b]*b + [a*(columns-b)]*a + [1]*(a*b)
        counts = [c*shape[0] for c in counts]
        if self.logit_scale is None:
            q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in qkv.chunk(3, dim=-1))
            return attend_windows(q, k, v, biases, counts, q.shape[-1] ** -0.5, drop).flatten(2)
        qk, v = qkv.split([2 * qkv.shape[-1] // 3, qkv.shape[-1] // 3], -1)
        qk, v = qk.unflatten(-1, (2, self.heads, -1)), v.unflatten(-1, (self.heads, -1))
        factor = self.logit_scale.clamp(max=math.log(100)).exp().squeeze(-1)
        factor = torch.stack([factor, torch.ones_like(factor)])
        q, k = (qk * (factor / torch.linalg.vector_norm(qk, dim=-1, keepdim=True).clamp_min(1e-12))).unbind(2)
        return attend_windows(q, k, v, biases, counts, 1.0, drop).flatten(2)

    def _qkv(self, x: Tensor) -> Tensor:
        if self.q_bias is None:
            return self.qkv(x)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        if not is_bare(self.qkv, Linear):
            return self.qkv(x) + bias
        return (onednn.linear if onednn.usable(x, self.qkv.weight) else F.linear)(x, self.qkv.weight, bias)

    def _bias(self) -> Tensor:
        """The bias of each pair of positions; gathered anew, since the table may change in place."""
        table = self.relative_position_bias_table
        if table is None:
            table = self.cpb_mlp(self.relative_coords_table)
        area = math.prod(self.window)
        return table.t().gather(1, self.relative_position_index.expand(self.heads, -1)).view(-1, area, area)


@register("token_mixer", "shifted_window")
class ShiftedWindowAttention(WindowAttention):
    shifted = True
