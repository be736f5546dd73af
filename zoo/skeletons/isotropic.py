"""The isotropic skeleton: one resolution and one width from the stem to the head."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from zoo.blocks.base import MetaBlock, PatchesOnly
from zoo.blocks.embed.positions import ClassAndPosition
from zoo.blocks.images import to_pair
from zoo.blocks.linear import InitName
from zoo.checks.ranges import Channels, Classes, Depth, Deviation, ImageSides, RateBelowOne, Scale, Sides, Width
from zoo.skeletons.image import HEADS, POOLS, Backbone
from zoo.skeletons.undo import all_or_nothing
from zoo.slots import Slot, SlotLike, SlotsLike, build_block, resolve_slots


class Isotropic(Backbone):
    """Stem, `depth` equal blocks, norm, head: the skeleton of MLP-Mixer, ResMLP, gMLP, ViT and the Hourglass MLP.

    Args:
        img_size: Side of the images, or (height, width).
        patch_size: Side of a patch, or (height, width).
        in_chans: Channels of the images.
        num_classes: Number of logits; 0 for no classifier.
        global_pool: ``avg``, ``max``, ``token`` (the class token) or ``""`` (all tokens).
        dim: Width of the blocks.
        depth: Number of blocks.
        token_mixer, channel_mixer: One slot for all blocks, a list that is repeated as a cycle, or a mapping with
            ``at={index: slot}`` for single blocks or ``every={n: slot}`` for each n-th (see `zoo.slots.resolve_slots`).
        norm: Slot of the norms before the mixers and before the head.
        act: Activation slot of all mixers that have one and do not set their own.
        init: Initialisation of the mixers that do not set their own, a scheme of `zoo.blocks.linear.INITS`.
        stem: Slot of the stem.
        stem_init, head_init: Initialisation of the stem and of the head.
        head: ``linear``, a classifier; ``tanh``, one behind a map of the features' width and tanh; or ``image``, a
            linear map to an image of the input's size.
        layer_scale: Initial value of a learnt factor per channel on each branch; None for no factor.
        class_token: Put a class token before the patches.
        pos_embed: Add learnt position embeddings.
        token_std: Standard deviation of the class token's initialisation.
        final_norm: Slot of the norm before the head; True for that of the last block, ``none`` for no norm.
        dynamic_img_size: Take images of any size, resampling the position embeddings in every forward pass.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embeddings.
        proj_drop_rate: Dropout in the mixers (their option ``drop``).
        attn_drop_rate: Dropout on attention weights (their option ``attn_drop``).
        drop_path_rate: Probability that a sample leaves a branch out in training.
        drop_path_rule: ``linear``, rising from 0 to the rate over the depth, or ``constant``.
        deploy: Build the form that `reparameterize` makes.

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

    slots = {
        "token_mixer": "token_mixer",
        "channel_mixer": "channel_mixer",
        "norm": "norm",
        "final_norm": "norm",
        "act": "act",
        "stem": "stem",
    }
    hands_on = {**Backbone.hands_on, "init": "*_mixer.init", "stem_init": "stem.init"}
    works_with = {"pos_drop_rate": ("class_token", "pos_embed"), "token_std": ("class_token",)}

    def __init__(
        self,
        *,
        img_size: ImageSides = 224,
        patch_size: Sides = 16,
        in_chans: Channels = 3,
        num_classes: Classes = 1000,
        global_pool: Literal[POOLS] = "avg",
        dim: Width,
        depth: Depth,
        token_mixer: SlotsLike,
        channel_mixer: SlotsLike,
        norm: SlotsLike = "layernorm",
        act: SlotLike = "gelu",
        init: InitName = "trunc_normal",
        stem: SlotsLike = "patch",
        stem_init: InitName = "torch",
        head_init: InitName = "trunc_normal",
        head: Literal[tuple(HEADS)] = "linear",
        layer_scale: Scale | None = None,
        class_token: bool = False,
        pos_embed: bool = False,
        token_std: Deviation = 0.02,
        final_norm: SlotsLike | bool = True,
        dynamic_img_size: bool = False,
        drop_rate: RateBelowOne = 0.0,
        pos_drop_rate: RateBelowOne = 0.0,
        proj_drop_rate: RateBelowOne = 0.0,
        attn_drop_rate: RateBelowOne = 0.0,
        drop_path_rate: RateBelowOne = 0.0,
        drop_path_rule: Literal["linear", "constant"] = "linear",
        deploy: bool = False,
        device=None,
        dtype=None,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "device", "dtype", "__class__")}
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.img_size, self.in_chans, self.dynamic_img_size = to_pair(img_size, "img_size"), in_chans, dynamic_img_size
        slots = {
            "token_mixer": resolve_slots(token_mixer, depth, "token_mixer"),
            "channel_mixer": resolve_slots(channel_mixer, depth, "channel_mixer"),
            "norm": resolve_slots(norm, depth, "norm"),
            "stem": resolve_slots(stem, 1, "stem"),
        }
        slots["final_norm"] = slots["norm"][-1:] if final_norm is True else resolve_slots(final_norm, 1, "final_norm")
        self.config = {**config, **slots, "img_size": self.img_size, "patch_size": to_pair(patch_size, "patch_size")}

        defaults = {"init": stem_init, "patch_size": patch_size}
        self.stem = build_block(
            "stem", slots["stem"][0], in_chans, dim, defaults=defaults, img_size=self.img_size, **dd
        )
        self.grid = self.stem.grid(self.img_size)
        self.num_prefix_tokens = int(class_token)
        self.tokens = None
        if class_token or pos_embed:
            self.tokens = ClassAndPosition(
                dim,
                grid=self.grid,
                class_token=class_token,
                pos_embed=pos_embed,
                drop=pos_drop_rate,
                token_std=token_std,
                **dd,
            )
        rates = [drop_path_rate] * depth
        if drop_path_rule == "linear":
            rates = calculate_drop_path_rates(drop_path_rate, depth)
        defaults = {"init": init, "act": act, "drop": proj_drop_rate, "attn_drop": attn_drop_rate}
        self.blocks = nn.Sequential(
            *[
                MetaBlock(
                    dim,
                    token_mixer=self._token_mixer(slots["token_mixer"][i], dim, defaults, dd),
                    channel_mixer=build_block("channel_mixer", slots["channel_mixer"][i], dim, defaults=defaults, **dd),
                    norm=partial(build_block, "norm", slots["norm"][i], **dd),
                    drop_path=rates[i],
                    layer_scale=layer_scale,
                    **dd,
                )
                for i in range(depth)
            ]
        )
        self.norm = build_block("norm", slots["final_norm"][0], dim, **dd)
        reduction = self.img_size[0] // self.grid[0]
        self.feature_info = [{"module": f"blocks.{i}", "num_chs": dim, "reduction": reduction} for i in range(depth)]
        self._make_head(dim, num_classes, global_pool, head=head, init=head_init, drop=drop_rate, **dd)
        if deploy:
            self.reparameterize()

    def _token_mixer(self, slot: Slot, dim: int, defaults: dict, dd: dict) -> nn.Module | None:
        mixer = build_block("token_mixer", slot, dim, defaults=defaults, grid=self.grid, **dd)
        if mixer is None or not self.num_prefix_tokens or getattr(mixer, "mixes_prefix", False):
            return mixer
        return PatchesOnly(mixer, prefix=self.num_prefix_tokens, grid=self.grid)

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
        positions = getattr(self.tokens, "pos_embed", None) is not None
        return (self.dynamic_img_size or not positions) and super()._any_size

    def _embed(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2], x.shape[-1]
        x = self.stem(x)
        if isinstance(x, Tensor):  # a symbol of torch.fx has no sizes to check
            self._check_size((height, width))
        x = x if self.tokens is None else self.tokens(x)
        return x.contiguous()  # a convolution may leave it strided, and every block would copy it again

    def set_input_size(
        self, img_size: int | Sequence[int] | None = None, patch_size: int | Sequence[int] | None = None
    ) -> None:
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
        if self.config["head"] == "image" and img_size != self.img_size:
            raise ValueError(f"a model that gives images of {self.img_size} cannot change its size; create another one")
        with all_or_nothing(self):
            self._set_patch_size(patch_size)
            grid = self.stem.grid(img_size)
            if grid != self.grid:
                for owner in (self.tokens, *self._token_mixers()):
                    if hasattr(owner, "set_grid"):
                        owner.set_grid(grid)
        self._moved(img_size, grid, patch_size)
        for info in self.feature_info:
            info["reduction"] = img_size[0] // grid[0]

    def _keep_levels(self, count: int) -> bool:
        self.blocks = self.blocks[:count]
        self.feature_info = self.feature_info[:count]
        self.config["depth"] = count
        for name in ("token_mixer", "channel_mixer", "norm"):
            self.config[name] = self.config[name][:count]
        return True
