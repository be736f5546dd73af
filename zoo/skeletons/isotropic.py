"""The isotropic skeleton: one resolution and one width from the stem to the head."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from zoo.blocks.base import PatchesOnly
from zoo.blocks.images import to_pair
from zoo.blocks.mixer import Part, trait
from zoo.checks.ranges import Depth, Scale, Sides, Width
from zoo.skeletons.blocks import PER_BLOCK
from zoo.skeletons.image import ImageArguments, ImageModel, NewSize
from zoo.skeletons.model import single_slot
from zoo.skeletons.undo import all_or_nothing
from zoo.slots import SlotsLike, build_block


@dataclass(frozen=True, kw_only=True)
class IsotropicArguments(ImageArguments):
    """What an isotropic model is built from.

    Args:
        dim: Width of the blocks.
        depth: Number of blocks.
        patch_size: Side of a patch, or (height, width).
        embed: Slot of what is added to the positions before the first block: a class token, position embeddings.
        dynamic_img_size: Take images of any size, resampling the position embeddings in every forward pass.
        layer_scale, res_scale: As in `BlockArguments`, of the one stage that there is.
    """

    dim: Width
    depth: Depth
    patch_size: Sides = 16
    embed: SlotsLike = "class_and_position(class_token=False, pos_embed=False)"
    dynamic_img_size: bool = False
    layer_scale: Scale | None = None
    res_scale: Scale | None = None


class Isotropic(ImageModel):
    """Stem, `depth` equal blocks, norm, head: the skeleton of MLP-Mixer, ResMLP, gMLP, ViT and the Hourglass MLP.

    Its arguments are those of `IsotropicArguments`, `zoo.skeletons.image.ImageArguments` and
    `zoo.skeletons.blocks.BlockArguments`, and options of its slots under names of their own: ``class_token``,
    ``pos_embed``, ``pos_drop_rate``, ``token_std``, ``stem_init``, ``head_init``.

    Shape: ``(B, in_chans, H, W) -> (B, num_classes)``.

    Example:
        >>> import torch
        >>> model = Isotropic(img_size=8, patch_size=4, dim=16, depth=2, num_classes=5,
        ...                   token_mixer=["pool", "attention"], channel_mixer="mlp(ratio=2)")
        >>> model(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 5])

    Raises:
        ValueError: A slot, an option or a size is none that can be built; the message says which and what can.
    """

    Arguments = IsotropicArguments
    slots = {**ImageModel.slots, "embed": "embed"}
    shorthands = {
        **ImageModel.shorthands,
        "class_token": "embed.class_token",
        "pos_embed": "embed.pos_embed",
        "pos_drop_rate": "embed.drop",
        "token_std": "embed.token_std",
    }
    hands_on = {**ImageModel.hands_on, "init": "*_mixer.init"}
    works_with = {"pos_drop_rate": ("class_token", "pos_embed"), "token_std": ("class_token",)}

    def _build(self, arguments: IsotropicArguments, **place) -> None:
        dim, depth = arguments.dim, arguments.depth
        self.dynamic_img_size = arguments.dynamic_img_size
        self._make_stem(arguments, dim, {"init": "torch"}, **place)  # as torch's own convolution begins
        embed = single_slot(arguments.embed, "embed")
        self.config["embed"] = [embed]
        self.tokens = build_block("embed", embed, dim, grid=self.grid, **place)
        self.num_prefix_tokens = trait(self.tokens, "num_prefix_tokens", Part)
        stack = self._stack(arguments, [dim], [depth], **place)
        self.blocks = nn.Sequential(*stack.blocks(0, self.grid))
        if self.num_prefix_tokens:
            for block in self.blocks:
                if block.token_mixer is not None and not trait(block.token_mixer, "mixes_prefix"):
                    block.token_mixer = PatchesOnly(block.token_mixer, prefix=self.num_prefix_tokens, grid=self.grid)
        self.norm = stack.final_norm()
        reduction = self.img_size[0] // self.grid[0]
        self.feature_info = [{"module": f"blocks.{i}", "num_chs": dim, "reduction": reduction} for i in range(depth)]
        self._make_head(arguments, dim, **place)

    @property
    def levels(self) -> nn.Sequential:
        return self.blocks

    def _token_mixers(self) -> Iterator[nn.Module]:
        return (block.token_mixer for block in self.blocks)

    @classmethod
    def count_levels(cls, arguments: Mapping) -> int:
        return min(3, arguments["depth"])

    @property
    def _any_size(self) -> bool:
        fixed = trait(self.tokens, "needs_grid") and not trait(self.tokens, "any_grid")
        return (self.dynamic_img_size or not fixed) and super()._any_size

    def _embed(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2], x.shape[-1]
        x = self.stem(x)
        if isinstance(x, Tensor):  # a symbol of torch.fx has no sizes to check
            self._check_size((height, width))
        x = x if self.tokens is None else self.tokens(x)
        return x.contiguous()  # a convolution may leave it strided, and every block would copy it again

    def set_input_size(self, img_size: NewSize = None, patch_size: NewSize = None) -> None:
        """Move the model to another image or patch size.

        Position embeddings, token mixers and the patch embedding are resampled in place; other weights stay as they
        are.

        Args:
            img_size: Side of the images or (height, width); None keeps it.
            patch_size: Side of a patch or (height, width); None keeps it.

        Raises:
            ValueError: The image is not a whole number of patches, or the stem or a mixer cannot change. Then the
                model stays as it was.
        """
        img_size = self.img_size if img_size is None else to_pair(img_size, "img_size")
        if self.makes_image and img_size != self.img_size:
            raise ValueError(f"a model that gives images of {self.img_size} cannot change its size; create another one")
        with all_or_nothing(self):
            self._set_patch_size(patch_size)
            grid = self.stem.grid(img_size)
            if grid != self.grid:
                for owner in (self.tokens, *self._token_mixers()):
                    if trait(owner, "needs_grid"):
                        owner.set_grid(grid)
        self._moved(img_size, grid, patch_size)
        for info in self.feature_info:
            info["reduction"] = img_size[0] // grid[0]

    def _keep_levels(self, count: int) -> bool:
        self.blocks = self.blocks[:count]
        self.feature_info = self.feature_info[:count]
        self.config |= {"depth": count, **{name: self.config[name][:count] for name in PER_BLOCK}}
        return True

    def group_matcher(self, coarse: bool = False) -> dict:
        """Patterns that group the parameters by depth, for layer-wise learning rates."""
        return {"stem": r"^(?:stem|tokens)\.", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}
