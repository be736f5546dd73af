"""Depthwise convolutions on the CPU: where torch's own call is slow, the same sums in a form that it does fast.

All by torch's convolution; only what it is asked for differs. Measured with torch 2.15 (oneDNN 3.13) on Zen 4, the
slow width and the wrong gradient also with torch 2.9 (oneDNN 3.7); the table is in benchmarks/RESULTS.md.

- channels_last (NHWC) is the layout. For kernels of 15 and more torch has no fast code for the other; below, the other
  pays two copies.
- A kernel of exactly 13 columns runs at a third (fp32) or half (bf16) of the speed of one of 15: it gets two columns of
  zeros.
- Rows and columns of the kernel that meet nothing but padding are left out.
- The gradient of the weights, for which torch takes up to 200 times as long as for the forward pass unless the kernel
  is 3x3, is a depthwise convolution too: of each image, with its output gradient as the kernel. For a dilated kernel in
  bf16, torch's own is wrong besides: from about 40 pixels of width on it has not even the right order of magnitude.
- The gradient of the input is the forward pass with the kernel turned around.

Wherever anything else may watch - a compiler, an exporter, a tensor subclass - `usable` says no.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.kernels import guard

_CPU = torch.backends.cpu.get_cpu_capability()
_AVAILABLE = torch.backends.mkldnn.is_available() and _CPU.startswith("AVX")
SLOW_COLUMNS, FAST_COLUMNS = (13, 15) if _CPU.startswith("AVX512") else (0, 0)  # AVX2 has no such slow width
CHANNEL_BLOCK = 16  # with channels left over, the wider kernel gains nothing


def convolve(conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``conv(x)`` for ``(B, C, H, W)``; a depthwise convolution that keeps the size on the CPU in its faster forms."""
    if _keeps_size(conv, x):
        return depthwise_nhwc(x.permute(0, 2, 3, 1), conv.weight, conv.bias, conv.dilation[0]).permute(0, 3, 1, 2)
    return plain_convolve(conv, x)


def plain_convolve(conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`convolve`, the convolution called."""
    return conv(x)


def _keeps_size(conv: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether it is what `zoo.blocks.conv.DepthwiseConv2d` makes, and nobody has to see its call."""
    return (
        guard.bare(conv, nn.Conv2d)
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.stride == (1, 1)
        and conv.dilation[0] == conv.dilation[1]
        and conv.padding == tuple(conv.dilation[0] * (side // 2) for side in conv.kernel_size)
        and all(side % 2 for side in conv.kernel_size)
        and conv.padding_mode == "zeros"
        and guard.plain(x, conv.weight)
    )


def depthwise_nhwc(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """A depthwise convolution of ``(B, H, W, C)`` by an odd kernel ``(C, 1, k, k)``, zeros outside the image.

    Shape: ``(B, H, W, C) -> (B, H, W, C)``.
    Cost: kernel area MACs an element.
    """
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):  # what autocast would do to torch's convolution
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = (None if t is None else t.to(dtype) for t in (x, weight, bias))
    return (conv if usable(x, weight) else plain_depthwise_nhwc)(x, weight, bias, dilation)


def plain_depthwise_nhwc(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """`depthwise_nhwc` by torch's convolution in channels_last."""
    padding = tuple(dilation * (k // 2) for k in weight.shape[2:])
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, 1, padding, dilation, len(weight)).permute(0, 2, 3, 1)


def usable(x: Tensor, weight: Tensor) -> bool:
    """Whether `conv` may stand for torch's own convolution here and now."""
    return (
        _AVAILABLE
        and guard.plain(x, weight)
        and x.device.type == "cpu"
        and x.numel() > 0
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.dtype == weight.dtype
    )


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """`depthwise_nhwc`, differentiable, where it is `usable`.

    Shape: ``(B, H, W, C)`` and ``(C, 1, k, k) -> (B, H, W, C)``.
    """
    _, height, width, _ = x.shape
    rows, columns = weight.shape[2] // 2, weight.shape[3] // 2
    top, left = max(0, rows - (height - 1) // dilation), max(0, columns - (width - 1) // dilation)
    if top or left:  # the part that can meet a pixel of the image: the rest of the kernel meets zeros alone
        weight = weight[:, :, top : 2 * rows + 1 - top, left : 2 * columns + 1 - left]
    if torch.is_grad_enabled() and (max(weight.shape[2:]) > 3 or dilation > 1):
        return _Depthwise.apply(x, weight, bias, dilation)
    return _forward(x, weight, bias, dilation)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    channels, _, rows, columns = weight.shape
    if columns == SLOW_COLUMNS and dilation == 1 and channels % CHANNEL_BLOCK == 0:
        extra = (FAST_COLUMNS - SLOW_COLUMNS) // 2
        weight, columns = F.pad(weight, (extra, extra)), FAST_COLUMNS
    padding = (dilation * (rows // 2), dilation * (columns // 2))
    image = x.contiguous().permute(0, 3, 1, 2)
    return F.conv2d(image, weight, bias, 1, padding, dilation, channels).permute(0, 2, 3, 1)


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """``sum over b, h, w of grad[b, h, w, c] * x[b, h + dilation * i, w + dilation * j, c]`` for each tap i, j.

    Image by image: all images as one with more channels would have to be brought into that order first, which takes
    longer.
    """
    rows, columns = weight.shape[2:]
    padding = (dilation * (rows // 2), dilation * (columns // 2))
    images, kernels = (t.contiguous().permute(0, 3, 1, 2) for t in (x, grad))
    parts = [
        F.conv2d(images[b : b + 1], kernels[b].unsqueeze(1), None, dilation, padding, 1, len(weight))
        for b in range(len(x))
    ]
    return torch.cat(parts).sum(0).unsqueeze(1)


class _Depthwise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        return _forward(x, weight, bias, dilation)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, weight, _, ctx.dilation = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            conv(grad, weight.flip(2, 3), None, ctx.dilation) if needs_x else None,
            _weight_gradient(x, grad, weight, ctx.dilation) if needs_weight else None,
            grad.sum((0, 1, 2)) if needs_bias else None,
            None,
        )
