"""A model as a giver of feature maps: what ``features_only=True`` makes of it."""

from timm.models import FeatureInfo
from torch import Tensor

from zoo.blocks.base import Aux
from zoo.blocks.kernels.symbolic import settled
from zoo.skeletons.image import ImageModel, Levels
from zoo.skeletons.model import DecayMarks
from zoo.weights.loaded import Loaded


class FeatureMaps(DecayMarks):
    """The maps of some levels of a model; with the attributes of timm's wrapper, and a way for keywords and aux.

    The levels after the last one asked for are removed, and their auxiliary outputs with them.

    Args:
        model: The model; it is changed.
        out_indices: Levels: the last n for an integer, negative ones from the end. Maps come in the model's order, each
            level once.
        output_fmt: ``NCHW``, ``NHWC`` or ``NLC``.
        norm: Apply the final norm to the maps that it fits.
        prune: Remove what the maps do not need.

    Attributes:
        feature_info: What timm knows of the maps: ``channels()``, ``reduction()``, ``module_name()``.
        out_indices: The levels, counted from the start.
        loaded: As that of a `Model`.

    Shape: ``(B, in_chans, H, W) ->`` a list of maps, ``(B, C_i, H_i, W_i)`` or as `output_fmt` says.

    Example:
        >>> import torch, zoo
        >>> model = zoo.create_model("vit_test", features_only=True, out_indices=(0, -1), channel_mixer="moe")
        >>> maps, aux = model(torch.randn(2, 3, 32, 32), return_aux=True)
        >>> [m.shape for m in maps], sorted(aux)[0]
        ([torch.Size([2, 32, 4, 4]), torch.Size([2, 32, 4, 4])], 'loss/balance')
    """

    loaded: Loaded | None = None

    def __init__(
        self, model: ImageModel, out_indices: Levels, *, output_fmt: str, norm: bool = False, prune: bool = True
    ):
        super().__init__()
        out_indices, _ = model.take_levels(out_indices)  # before levels are removed: negative ones would be others then
        if prune:
            model.prune_intermediate_layers(out_indices, prune_norm=not norm)
        self.feature_info = FeatureInfo(model.feature_info, out_indices)
        self.model, self.out_indices = model, out_indices
        self.output_fmt, self.norm = output_fmt, norm

    def forward(self, x: Tensor, return_aux: bool = False, **keywords) -> list[Tensor] | tuple[list[Tensor], Aux]:
        """The maps, and on request what the mixers report beside them.

        Args:
            x: Images ``(B, in_chans, H, W)``.
            return_aux: Return ``(maps, aux)``, as `ImageModel.forward` does with logits.
            keywords: Those for the mixers that declare them, such as ``task=1``.
        """
        return_aux, keywords = settled(return_aux, False), settled(keywords, {})
        return self.model.forward_intermediates(
            x,
            indices=self.out_indices,
            norm=self.norm,
            output_fmt=self.output_fmt,
            intermediates_only=True,
            return_aux=return_aux,
            **keywords,
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of blocks in training and compute the rest again in the backward pass."""
        self.model.set_grad_checkpointing(enable)
