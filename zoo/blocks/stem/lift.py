"""A stem that makes one vector of a whole image."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.blocks.linear import Linear, linear
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Channels, Seed, Side, Width
from zoo.slots.table import register


@register("stem", "lift")
class Lift(nn.Module):
    """Flatten an image and lift it to one vector: by a fixed random projection, a trained one, or not at all.

    Args:
        kind: ``random``: a fixed Gaussian projection of variance 1 / in_features, rebuilt from `seed` and never stored;
            ``trained``: a linear map; ``none``: the values themselves, `dim` being their number.
        seed: Seed of the random projection.
        init: A scheme of `zoo.blocks.init` for the trained map.
        img_size: (height, width) of the image.

    Shape: ``(B, in_chans, H, W) -> (B, 1, 1, dim)``.

    Example:
        >>> lift = Lift(3, 32, kind="random", seed=1, img_size=(2, 2))
        >>> lift(torch.randn(5, 3, 2, 2)).shape, list(lift.state_dict())
        (torch.Size([5, 1, 1, 32]), [])

    Source: "Rethinking the shape convention of an MLP" (arXiv 2510.01796): a projection fixed at random initialisation.
    Differs: distribution and scale are not given in the abstract; a variance-preserving Gaussian is zoo's choice.
    Cost: in_chans x H x W x dim MACs, none for ``none``.
    Raises: ValueError for an unknown kind, a width that ``none`` cannot give, or an image of another size.
    """

    follows = ("init",)

    @with_options_of(Linear)
    def __init__(
        self,
        in_chans: Channels,
        dim: Width,
        *,
        kind: Literal["random", "trained", "none"] = "random",
        seed: Seed = 0,
        img_size: tuple[Side, Side],
        **options,
    ):
        super().__init__()
        self.shape = (in_chans, *img_size)
        features = torch.Size(self.shape).numel()
        if kind == "none" and dim != features:
            raise ValueError(
                f"lift(kind='none') keeps the {features} values of an image, so dim must be {features}, not {dim}"
            )
        self.kind, self.seed = kind, seed
        if kind == "random":
            self.register_buffer("projection", torch.empty(dim, features, **placement(options)), persistent=False)
            self.reset_parameters()
        elif kind == "trained":
            self.proj = Linear(features, dim, **options)

    def reset_parameters(self) -> None:
        """Rebuild the random projection from its seed."""
        if self.kind == "random" and not self.projection.is_meta:
            # numpy promises that a RandomState gives the same numbers for ever; torch's generators promise nothing.
            values = np.random.RandomState(self.seed).standard_normal(self.projection.shape)
            self.projection.copy_(torch.from_numpy(values / self.projection.shape[1] ** 0.5))

    def grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """One position, whatever the image; the image itself cannot have another size."""
        return one_position(img_size, self.shape)

    def forward(self, x: Tensor) -> Tensor:
        check_shape(x, self.shape)
        x = x.flatten(1)
        if self.kind != "none":
            x = F.linear(x, self.projection) if self.kind == "random" else linear(x, self.proj)
        return x[:, None, None]

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, seed={self.seed}, shape={self.shape}"


@fx.wrap
def check_shape(x: Tensor, shape: tuple[int, int, int]) -> None:
    """Check a batch of images of one shape alone.

    Raises:
        ValueError: It is of another.
    """
    if tuple(x.shape[1:]) != shape:
        raise ValueError(
            f"expected images (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}; create the model with the "
            "img_size and in_chans of the data"
        )


@fx.wrap
def one_position(size: tuple[int, int], shape: tuple[int, int, int]) -> tuple[int, int]:
    """The grid of a lifted image.

    Raises:
        ValueError: The image has another size than those of a shape.
    """
    if tuple(size) != shape[1:]:
        raise ValueError(
            f"a lift of {shape[1]} x {shape[2]} images cannot take {size[0]} x {size[1]}; "
            "its weights cannot be resampled, so create a model with that img_size"
        )
    return 1, 1
