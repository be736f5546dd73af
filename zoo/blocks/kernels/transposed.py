"""Transposed convolutions that double a grid, and a form of them that torch can differentiate for each sample."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.kernels import guard


def enlarge(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)`` for a transposed convolution of kernel 4, stride 2 and padding 1.

    Under `torch.func` as a convolution of the grid with zeros between its positions: of the transposed one under
    `torch.vmap` torch cannot compute the gradients (torch 2.15: "grad_weight needs to be contiguous").

    Shape: ``(B, C, H, W) -> (B, C', 2 H, 2 W)``.
    """
    if not (guard.transformed() and guard.bare(conv, nn.ConvTranspose2d)):
        return conv(x)
    height, width = x.shape[2:]
    apart = F.pad(x[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1)).reshape(*x.shape[:2], 2 * height, 2 * width)
    y = F.conv2d(apart, conv.weight.transpose(0, 1).flip(2, 3), conv.bias, padding=2)
    return y[:, :, : 2 * height, : 2 * width]
