"""The rational function's kernels for the GPU, in Triton; the plain twin is `zoo.blocks.kernels.rational.formula`.

A program takes some rows of one group of channels, so that its coefficients are single numbers. Going backward it sums
what they get from its rows, and writes the sums to a place of its own; a second pass adds these up. Nothing depends on
which program comes first: the same input gives the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096  # of a program's tile
PROGRAMS = 512  # at most, a group, in the backward pass: each goes over several tiles


@triton.jit
def _tile(rows, row_start, group, channels, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Offsets and mask of a tile."""
    row = row_start + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    offsets = row.to(tl.int64) * channels + group * width + column
    return offsets, (row < rows) & (column < width)


@triton.jit
def _forward(
    x_ptr, a_ptr, b_ptr, y_ptr, rows, channels, width, a_stride, limit,
    M: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    offsets, mask = _tile(rows, tl.program_id(0) * ROWS, group, channels, width, ROWS, WIDTH)
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    x = tl.where(x > limit, limit, tl.where(x < -limit, -limit, x))  # what is not a number stays so
    size = tl.abs(x)
    p = tl.zeros_like(x)
    for k in tl.static_range(M, -1, -1):
        p = p * x + tl.load(a_ptr + group * a_stride + k)
    q = tl.zeros_like(x)
    for k in tl.static_range(N - 1, -1, -1):
        q = (q + tl.abs(tl.load(b_ptr + group * N + k))) * size
    tl.store(y_ptr + offsets, (p / (q + 1.0)).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    g_ptr, x_ptr, a_ptr, b_ptr, dx_ptr, sums_ptr, rows, channels, width, a_stride, limit, tiles,
    M: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    index = tl.arange(0, SUMS)
    sums = tl.zeros([SUMS], tl.float32)  # M + 1 of the numerator, then N of the denominator
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets, mask = _tile(rows, tile * ROWS, group, channels, width, ROWS, WIDTH)
        x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(g_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        g = tl.where((x >= limit) | (x <= -limit), 0.0, g)
        x = tl.where(x > limit, limit, tl.where(x < -limit, -limit, x))
        size = tl.abs(x)
        # P and Q by Horner's rule, and their derivatives (Q's for x > 0) along with them.
        p, dp = tl.zeros_like(x), tl.zeros_like(x)
        for k in tl.static_range(M, -1, -1):
            dp = dp * x + p
            p = p * x + tl.load(a_ptr + group * a_stride + k)
        q, dq = tl.zeros_like(x), tl.zeros_like(x)
        for k in tl.static_range(N, -1, -1):
            dq = dq * size + q
            q = q * size + (tl.abs(tl.load(b_ptr + group * N + k - 1)) if k > 0 else 1.0)
        u = g / q
        v = -u * p / q
        dx = u * dp + v * tl.where(x < 0, -dq, dq)
        tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        for k in tl.static_range(0, M + 1):
            sums += tl.where(index == k, tl.sum(tl.sum(u, 1), 0), 0.0)
            u *= x
        for k in tl.static_range(0, N):
            v *= size
            sums += tl.where(index == M + 1 + k, tl.sum(tl.sum(v, 1), 0), 0.0)
    place = tl.program_id(0) * tl.num_programs(1) + group
    tl.store(sums_ptr + place * (M + 1 + N) + index, sums, mask=index < M + 1 + N)


def _plan(x: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[int, int, int, dict[str, int]]:
    """Rows, groups, tiles, and the kernels' sizes."""
    groups, degree = denominator.shape
    rows = x.numel() // x.shape[-1]
    width = triton.next_power_of_2(x.shape[-1] // groups)
    height = max(1, ELEMENTS // width)
    sizes = {"M": numerator.shape[1] - 1, "N": degree, "ROWS": height, "WIDTH": width}
    return rows, groups, triton.cdiv(rows, height), sizes


def _arguments(x: Tensor, numerator: Tensor, denominator: Tensor, limit: float) -> tuple:
    channels, groups = x.shape[-1], denominator.shape[0]
    a_stride = numerator.shape[1] if numerator.shape[0] > 1 else 0
    return channels, channels // groups, a_stride, limit


def forward(x: Tensor, numerator: Tensor, denominator: Tensor, limit: float) -> Tensor:
    """P/Q of each element, in fp32. The arguments are those of `zoo.blocks.kernels.rational.rational`."""
    x, a, b = x.contiguous(), numerator.float().contiguous(), denominator.float().contiguous()
    y = torch.empty_like(x)
    rows, groups, tiles, sizes = _plan(x, a, b)
    if x.numel():
        with torch.cuda.device_of(x):
            _forward[(tiles, groups)](x, a, b, y, rows, *_arguments(x, a, b, limit), **sizes)
    return y


def backward(grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, limit: float) -> tuple[Tensor, ...]:
    """Gradients of the input and of the coefficients."""
    grad, x, a, b = grad.contiguous(), x.contiguous(), numerator.float().contiguous(), denominator.float().contiguous()
    dx = torch.empty_like(x)
    rows, groups, tiles, sizes = _plan(x, a, b)
    programs = min(tiles, PROGRAMS)
    count = a.shape[1] + b.shape[1]
    parts = x.new_zeros(programs, groups, count, dtype=torch.float32)
    if x.numel():
        sizes["SUMS"] = triton.next_power_of_2(count)
        with torch.cuda.device_of(x):
            _backward[(programs, groups)](grad, x, a, b, dx, parts, rows, *_arguments(x, a, b, limit), tiles, **sizes)
    da, db = parts.sum(0).split([a.shape[1], b.shape[1]], 1)
    da = da if numerator.shape[0] > 1 else da.sum(0, keepdim=True)
    db = torch.where(denominator < 0, -db, db)
    return dx, da.to(numerator.dtype), db.to(denominator.dtype)
