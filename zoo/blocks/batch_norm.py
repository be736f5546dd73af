"""Batch normalisation of channels-last tensors."""

from torch import Tensor, fx, nn

from zoo.blocks.conv import conv_nhwc
from zoo.checks.ranges import Eps, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register


@register("norm", "batchnorm")
class BatchNorm(nn.Module):
    """Batch normalisation: over all samples and positions in training, by running statistics else; and an activation.

    The module within it is torch's own, so that what merges, freezes or synchronises batch norms finds it.

    Args:
        act: An activation slot, applied to the result.

    Shape: ``(*, C) -> (*, C)``.

    Example:
        >>> import torch
        >>> y = BatchNorm(8, act="relu")(3 + torch.randn(2, 5, 5, 8))
        >>> y.shape, bool(y.min() == 0)
        (torch.Size([2, 5, 5, 8]), True)

    Source: Ioffe, Szegedy, "Batch Normalization" (arXiv 1502.03167), algorithms 1 and 2.
    Differs: none known.
    Cost: no MACs by zoo's convention (element-wise).
    Raises: ValueError in training for a batch with one value a channel, which has no variance.
    """

    def __init__(self, dim: Width, *, eps: Eps = 1e-5, act: SlotLike = "none", device=None, dtype=None):
        super().__init__()
        self.bn = nn.BatchNorm2d(dim, eps=eps, device=device, dtype=dtype)
        self.act = build_act(act, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(over_channels(self.bn, x))


def over_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """A batch norm of images, such as `torch.nn.BatchNorm2d`, applied to the last dimension, ``(*, C) -> (*, C)``."""
    return conv_nhwc(norm, _image(x)).reshape(x.shape)


@fx.wrap
def _image(x: Tensor) -> Tensor:
    """``(*, C)`` as ``(B, H, W, C)``, for what is computed over all but the channels."""
    return x if x.ndim == 4 else x.reshape(-1, 1, 1, x.shape[-1])
