"""Attention within windows, and within windows shifted by half a window: the token mixers of Swin and SwinV2."""

import math
from collections.abc import Sequence

import torch
from timm.layers import resize_rel_pos_bias_table
from torch import Tensor, fx, nn

from zoo.blocks.images import to_pair
from zoo.blocks.init import init_
from zoo.blocks.kernels.linear import product
from zoo.blocks.kernels.windows import attend_windows, in_chunks, window_biases
from zoo.blocks.linear import is_bare, linear
from zoo.blocks.options import placement, with_options_of
from zoo.blocks.tables import Tables
from zoo.blocks.token.heads import SelfAttention
from zoo.blocks.token.partition import (
    cut_windows,
    image_of_grid,
    merge_windows,
    shift_masks,
    window_order,
)
from zoo.blocks.token.position_bias import OffsetMlp, log_offsets, relative_index
from zoo.checks.ranges import Grid, Index, Sides, Width
from zoo.slots.table import register

for _name in ("attend_windows", "cut_windows", "image_of_grid", "merge_windows", "window_biases"):
    fx.wrap(_name)


@fx.wrap
def places_of(
    image: Tensor,
    window: tuple[int, int],
    shift: tuple[int, int],
    grid: tuple[int, ...],
    order: Tensor,
    inverse: Tensor,
    counts: tuple[int, ...],
) -> tuple[Tensor | None, Tensor | None, tuple[int, ...]]:
    """What `window_order` gives for images: where they have the known grid what is known, else computed.

    Where the windows lie as the image does there is no order, and one group; the windows of an image come together.
    """
    height, width = image.shape[1], image.shape[2]
    if not any(shift) and height % window[0] == 0 and width % window[1] == 0:
        return None, None, (height // window[0] * (width // window[1]),)
    if (height, width) == (1, *grid)[-2:]:
        return order.to(image.device), inverse.to(image.device), counts
    return window_order((height, width), window, shift, image.device)


@register("token_mixer", "window")
class WindowAttention(SelfAttention, Tables):
    """Multi-head self-attention within windows, with a bias for each offset between two positions.

    Args:
        window_size: Side of a window or (height, width). Where the grid is smaller, the window is the grid.
        heads: Number of heads; by default the most that divide `dim` and are at least `head_dim` wide.
        head_dim: Least width of a head where `heads` is not given.
        qkv_bias: Bias on the projection to queries, keys and values; with `cosine` the keys have none.
        cosine: SwinV2's form: cosines of queries and keys with a learnt scale, biases from a network over offsets.
        continuous: SwinV2-MoE's form: such a network too, its biases not bounded, and no cosines.
        pretrained_window: Side of the window that the network was trained with, if it was another.
        attn_drop: Dropout on the attention weights.
        drop: Dropout after the output projection.
        init: A scheme of `zoo.blocks.init`; queries, keys and values are three matrices to it.
        grid: Sizes of the position dimensions of the input. A sequence has windows of as many positions in a row.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``; on other grids the window stays the same.

    Example:
        >>> WindowAttention(64, window_size=4, grid=(8, 8))(torch.randn(2, 8, 10, 64)).shape
        torch.Size([2, 8, 10, 64])

    Source: Liu et al., "Swin Transformer" (arXiv 2103.14030), equation 4; "Swin Transformer V2" (arXiv 2111.09883),
        equations 2 to 4; microsoft/Swin-Transformer, models/swin_transformer.py, swin_transformer_v2.py and
        swin_transformer_moe.py.
    Differs: none known. A grid that is no whole number of windows is filled with zeros as in timm, and attended to.
    Cost: 4 x dim x dim MACs a position, and 2 x window area x dim, counting those that fill up the last windows; with
        `cosine` or `continuous` 512 x (2 + heads) an offset, once a call.
    Raises: ValueError if `dim` is not a multiple of `heads`, for `pretrained_window` without a network, or for both
        `cosine` and `continuous`.
    """

    title = "window attention"
    needs_grid = True
    any_grid = True
    cuts_grid = True
    no_decay = ("relative_position_bias_table", "logit_scale", "q_bias", "v_bias")
    shifted = False

    @with_options_of(SelfAttention, without=["proj_bias"])
    def __init__(
        self,
        dim: Width,
        *,
        window_size: Sides = 7,
        qkv_bias: bool = True,
        cosine: bool = False,
        continuous: bool = False,
        pretrained_window: Index = 0,
        grid: Grid,
        **options,
    ):
        if cosine and continuous:
            raise ValueError("window attention is cosine=True or continuous=True, not both; leave one out")
        if pretrained_window and not (cosine or continuous):
            raise ValueError(
                f"window attention with a table of biases cannot use pretrained_window={pretrained_window}; "
                "leave it out or add cosine=True"
            )
        super().__init__(dim, qkv_bias=qkv_bias and not cosine, **options)
        self.pretrained_window, dd = pretrained_window, placement(options)
        self._place(grid, window_size)
        self.relative_position_bias_table = self.logit_scale = self.cpb_mlp = self.q_bias = self.v_bias = None
        if cosine:
            self.logit_scale = nn.Parameter(torch.empty(self.heads, 1, 1, **dd))
            if qkv_bias:
                self.q_bias, self.v_bias = (nn.Parameter(torch.empty(dim, **dd)) for _ in "qv")
        if cosine or continuous:
            self.cpb_mlp = OffsetMlp(self.heads, bounded=cosine, init=options["init"], **dd)
        else:
            self.relative_position_bias_table = nn.Parameter(torch.empty(self._offsets(), self.heads, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.cpb_mlp is None:
            init_(self.relative_position_bias_table, None, "trunc_normal")
        if self.logit_scale is not None:
            nn.init.constant_(self.logit_scale, math.log(10))
        if self.q_bias is not None:
            nn.init.zeros_(self.q_bias)
            nn.init.zeros_(self.v_bias)
        self._make_tables()

    def _area(self, size: tuple[int, int]) -> tuple[int, int]:
        return size if len(self.grid) == 2 else (1, size[0] * size[1])

    def _offsets(self) -> int:
        return math.prod(2 * side - 1 for side in self.window)

    def _place(self, grid: tuple[int, ...], window_size: int | tuple[int, int]) -> None:
        self.grid, self.window_size = tuple(grid), to_pair(window_size, "window_size")
        sides = list(zip((1, *self.grid)[-2:], self._area(self.window_size), strict=True))
        self.window = tuple(min(size, side) for size, side in sides)
        self.shift = tuple(side // 2 if self.shifted and size > side else 0 for size, side in sides)

    def _make_tables(self) -> None:
        """What follows from grid, window and shift; it is not saved."""
        # Not of a layer by name, around which an adapter may stand; and quantised layers have no parameters.
        weight = next(t for t in (*self.parameters(), *self.buffers()) if t.is_floating_point())
        order, inverse, self.counts = window_order((1, *self.grid)[-2:], self.window, self.shift, weight.device)
        index = relative_index(self.window, weight.device)
        self.set_tables(order=order, inverse=inverse, relative_position_index=index)
        tables = {"masks": shift_masks(self.window, self.shift, weight.device, weight.dtype)}
        if self.cpb_mlp is not None:
            pretrained = self._area((self.pretrained_window,) * 2) if self.pretrained_window else None
            offsets = log_offsets(self.window, pretrained, weight.device)
            tables["relative_coords_table"] = offsets.to(weight.dtype)
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def set_grid(self, grid: tuple[int, ...], window_size: int | tuple[int, int] | None = None) -> None:
        """Move to another grid, with the window that was asked for as far as it fits, or another window.

        If the window changes, the table of biases is resampled, or the network is asked for other offsets.
        """
        old, table = self.window, self.relative_position_bias_table
        self._place(grid, self.window_size if window_size is None else window_size)
        if table is not None and self.window != old:
            with torch.no_grad():
                resized = resize_rel_pos_bias_table(table, self.window, (self._offsets(), self.heads), old)
            self.relative_position_bias_table = nn.Parameter(resized, table.requires_grad)
        self._make_tables()

    def set_window_size(self, window_size: int | tuple[int, int]) -> None:
        """Ask for another window on the same grid, as in `set_grid`."""
        self.set_grid(self.grid, window_size)

    def forward(self, x: Tensor) -> Tensor:
        image = image_of_grid(x, self.grid)
        known = self.grid, self.order, self.inverse, self.counts
        order, inverse, counts = places_of(image, self.window, self.shift, *known)
        biases = self._biases()

        def attend(image: Tensor) -> Tensor:
            y = self._attend(self._qkv(cut_windows(image, self.window, order)), biases, counts)
            return linear(merge_windows(y, image.shape, self.window, inverse), self.proj)

        y = in_chunks(attend, image).view(x.shape)
        return y if self.drop is None else self.drop(y)

    def _qkv(self, x: Tensor) -> Tensor:
        if self.q_bias is None:
            return linear(x, self.qkv)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        if not is_bare(self.qkv, nn.Linear) or not isinstance(x, Tensor):
            return self.qkv(x) + bias
        return product(x, self.qkv.weight, bias)

    def _attend(self, qkv: Tensor, biases: list[Tensor], counts: Sequence[int]) -> Tensor:
        qkv = qkv.unflatten(-1, (3, self.heads, qkv.shape[-1] // (3 * self.heads)))
        if self.logit_scale is None:
            (q, k, v), scale = qkv.unbind(2), qkv.shape[-1] ** -0.5
        else:
            qk, v = qkv.split([2, 1], dim=2)
            scale = self.logit_scale.clamp(max=math.log(100)).exp().squeeze(-1)
            lengths = torch.linalg.vector_norm(qk, dim=-1, keepdim=True).clamp_min(1e-12)
            q, k = (qk * (torch.stack([scale, torch.ones_like(scale)]) / lengths)).unbind(2)
            v, scale = v.squeeze(2), 1.0
        return attend_windows(q, k, v, biases, counts, scale, self.attn_drop if self.training else 0.0).flatten(2)

    def _biases(self) -> list[Tensor]:
        """What is added to the scores of each group of windows; gathered anew, since the table may change in place."""
        table = self.relative_position_bias_table
        if table is None:
            table = self.cpb_mlp(self.relative_coords_table)
        return window_biases(table, self.relative_position_index.to(table.device), self.masks)

    def extra_repr(self) -> str:
        return f"window={self.window}, shift={self.shift}, heads={self.heads}"


@register("token_mixer", "shifted_window")
class ShiftedWindowAttention(WindowAttention):
    """Attention within windows that lie half a window further than those of `WindowAttention`, round the grid's edges.

    Positions that meet in a window only because the grid was rolled do not attend to each other. Where the grid is not
    larger than the window, nothing is shifted. Arguments, cost and errors are those of `WindowAttention`.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``; on other grids window and shift stay the same.

    Example:
        >>> ShiftedWindowAttention(64, window_size=4, grid=(8, 8)).shift
        (2, 2)

    Source: Liu et al., "Swin Transformer" (arXiv 2103.14030), section 3.2; microsoft/Swin-Transformer,
        models/swin_transformer.py and swin_transformer_v2.py.
    Differs: none known.
    Cost: that of `WindowAttention`.
    Raises: ValueError as `WindowAttention` does.
    """

    shifted = True
