"""The hierarchical skeleton: stages of falling resolution and rising width."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from zoo.blocks.base import FORMS, Aux, MetaBlock, keywords_of, merge_aux
from zoo.blocks.images import to_pair
from zoo.blocks.linear import InitName
from zoo.checks import unboxed
from zoo.checks.ranges import Channels, Classes, Depths, ImageSides, RateBelowOne, Scale, Sides, Widths
from zoo.skeletons.checkpointing import run_block
from zoo.skeletons.image import HEADS, POOLS, Backbone
from zoo.skeletons.undo import all_or_nothing
from zoo.slots import Slot, SlotLike, SlotsLike, build_block, resolve_slots, resolve_stage_slots

PER_BLOCK = ("token_mixer", "channel_mixer", "norm")


class Stage(nn.Module):
    """Downsampling, if any, and the blocks of one resolution.

    Shape: ``(B, H, W, C) -> (B, H', W', C')``; with the auxiliary outputs behind it, ``(x, aux)``, if `has_aux`.
        Keywords of the forward pass go to the mixers that declare them.
    """

    def __init__(self, downsample: nn.Module | None, blocks: Sequence[MetaBlock]):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    @property
    def has_aux(self) -> bool:
        """Whether a block returns auxiliary outputs."""
        return any(block.has_aux for block in self.blocks)

    @property
    def takes(self) -> frozenset[str]:
        """Optional keywords that a mixer of a block declares."""
        return frozenset().union(*[keywords_of(block) for block in self.blocks])

    def forward(self, x: Tensor, **given) -> Tensor | tuple[Tensor, Aux]:
        if self.downsample is not None:
            x = self.downsample(x)
        x, auxes = x.contiguous(), []  # a convolution may leave it strided, and every block would copy it again
        for block in self.blocks:
            x, aux = run_block(block, x, self.grad_checkpointing, given)
            auxes.append(aux)
        return (x, merge_aux(auxes)) if self.has_aux else x


class Hierarchical(Backbone):
    """Stem, stages, norm, head: the skeleton of Swin, MetaFormer, ConvNeXt and UniRepLKNet.

    What is said "per stage" is one value for all stages or a list with an entry a stage.

    Args:
        img_size: Side of the images, or (height, width). Images of other sizes may come too, unless a token mixer's
            weights belong to its grid.
        patch_size: Patch of a ``patch`` stem that does not set its own: a side, or (height, width).
        in_chans: Channels of the images.
        num_classes: Number of logits; 0 for no classifier.
        global_pool: ``avg``, ``max`` or ``""`` (all positions).
        dims: Width of each stage.
        depths: Number of blocks of each stage.
        token_mixer, channel_mixer, norm: Slots of the blocks: one for all; a list with an entry a stage, each a slot or
            a list, a cycle within the stage; or a mapping with ``at={index: slot}`` for single blocks or
            ``every={n: slot}`` for each n-th, counted over all stages (see `zoo.slots.resolve_stage_slots`).
        act: Activation slot of all mixers that have one and do not set their own.
        init: Initialisation of everything that does not set its own, a scheme of `zoo.blocks.linear.INITS`.
        stem, downsample: Slots of the stem and of what comes before every stage but the first.
        form: Where norms and shortcuts stand in a block: ``pre``, ``post`` or ``serial`` (see
            `zoo.blocks.base.MetaBlock`).
        layer_scale: Per stage: initial value of a learnt factor per channel on each branch; None for no factor.
        res_scale: Per stage: likewise on each shortcut.
        final_norm: Slot of the norm before the head.
        pool_first: The final norm comes after the pooling, not before it.
        head: ``linear``; ``mlp``, a perceptron; or ``tanh``, a classifier behind a map of the features' width and tanh.
        head_init: Initialisation of the head.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout in the mixers (their option ``drop``).
        attn_drop_rate: Dropout on attention weights (their option ``attn_drop``).
        drop_path_rate: Probability that a sample leaves a branch out in training, rising from 0 to this over the depth.
        deploy: Build the form that `reparameterize` makes.

    Shape: ``(B, in_chans, H, W) -> (B, num_classes)``.

    Example:
        >>> import torch
        >>> model = Hierarchical(img_size=32, dims=[8, 16], depths=[1, 2], num_classes=5,
        ...                      token_mixer=["pool", ["window", "shifted_window"]], channel_mixer="mlp")
        >>> model(torch.randn(2, 3, 32, 48)).shape, [f["reduction"] for f in model.feature_info]
        (torch.Size([2, 5]), [4, 8])

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
        "downsample": "downsample",
    }
    hands_on = {**Backbone.hands_on, "downsample": "downsample"}
    output_fmt = "NHWC"

    def __init__(
        self,
        *,
        img_size: ImageSides = 224,
        patch_size: Sides = 4,
        in_chans: Channels = 3,
        num_classes: Classes = 1000,
        global_pool: Literal[POOLS] = "avg",
        dims: Widths,
        depths: Depths,
        token_mixer: SlotsLike,
        channel_mixer: SlotsLike,
        norm: SlotsLike = "layernorm",
        act: SlotLike = "gelu",
        init: InitName = "trunc_normal",
        stem: SlotsLike = "patch",
        downsample: SlotsLike = "merge",
        form: Literal[FORMS] = "pre",
        layer_scale: Scale | None | Sequence[Scale | None] = None,
        res_scale: Scale | None | Sequence[Scale | None] = None,
        final_norm: SlotsLike = "layernorm",
        pool_first: bool = False,
        head: Literal[tuple(HEADS)] = "linear",
        head_init: InitName = "trunc_normal",
        drop_rate: RateBelowOne = 0.0,
        proj_drop_rate: RateBelowOne = 0.0,
        attn_drop_rate: RateBelowOne = 0.0,
        drop_path_rate: RateBelowOne = 0.0,
        deploy: bool = False,
        device=None,
        dtype=None,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "device", "dtype", "__class__")}
        super().__init__()
        if len(dims) != len(depths):
            raise ValueError(f"dims has {len(dims)} entries and depths {len(depths)}; both need one a stage")
        dims, depths, stages = tuple(dims), tuple(depths), len(depths)
        dd = {"device": device, "dtype": dtype}
        self.img_size, self.in_chans, self.pool_first = to_pair(img_size, "img_size"), in_chans, pool_first
        slots = {name: resolve_stage_slots(config[name], depths, name) for name in PER_BLOCK}
        slots |= {name: resolve_slots(config[name], 1, name) for name in ("stem", "final_norm")}
        if stages > 1:
            slots["downsample"] = resolve_slots(downsample, stages - 1, "downsample")
        scales = {"layer_scale": _per_stage(layer_scale, stages, "layer_scale")}
        scales["res_scale"] = _per_stage(res_scale, stages, "res_scale")
        self.config = {**config, **slots, "dims": dims, "depths": depths, "img_size": self.img_size}
        self.config["patch_size"] = to_pair(patch_size, "patch_size")

        defaults = {"init": init, "act": act, "patch_size": patch_size}
        self.stem = build_block(
            "stem", slots["stem"][0], in_chans, dims[0], defaults=defaults, img_size=self.img_size, **dd
        )
        defaults = {"init": init, "act": act, "drop": proj_drop_rate, "attn_drop": attn_drop_rate}
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        starts = list(itertools.accumulate((0, *depths)))
        built = []
        grid = self.grid = self.stem.grid(self.img_size)
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            down = None
            if i:
                down = build_block("downsample", slots["downsample"][i - 1], dims[i - 1], dim, defaults=defaults, **dd)
                grid = down.grid(grid)
            blocks = []
            for j in range(depth):
                token, channel, norm_slot = (slots[name][starts[i] + j] for name in PER_BLOCK)
                blocks.append(
                    MetaBlock(
                        dim,
                        token_mixer=build_block("token_mixer", token, dim, defaults=defaults, grid=grid, **dd),
                        channel_mixer=build_block("channel_mixer", channel, dim, defaults=defaults, **dd),
                        norm=partial(build_block, "norm", norm_slot, **dd),
                        form=form,
                        drop_path=rates[i][j],
                        layer_scale=scales["layer_scale"][i],
                        res_scale=scales["res_scale"][i],
                        **dd,
                    )
                )
            built.append(Stage(down, blocks))
        self.stages = nn.Sequential(*built)
        self.norm = build_block("norm", slots["final_norm"][0], dims[-1], **dd)
        self.feature_info = []
        self._set_reductions()
        self._make_head(dims[-1], num_classes, global_pool, head=head, init=head_init, drop=drop_rate, **dd)
        if deploy:
            self.reparameterize()

    # --- The model as a list of levels --------------------------------------------------------------------------------

    @property
    def levels(self) -> nn.Sequential:
        return self.stages

    def _token_mixers(self) -> Iterator[nn.Module]:
        return (block.token_mixer for stage in self.stages for block in stage.blocks)

    @classmethod
    def count_levels(cls, arguments: Mapping) -> int:
        return len(arguments["depths"])

    def _set_reductions(self) -> None:
        """Fill `feature_info`: pixels of the image to one position of each stage."""
        strides = [getattr(self.stem, "stride", self.img_size[0] // self.grid[0])]
        strides += [stage.downsample.stride for stage in self.stages if stage.downsample is not None]
        reductions = itertools.accumulate(strides, lambda a, b: a * b)
        self.feature_info[:] = [
            {"module": f"stages.{i}", "num_chs": dim, "reduction": reduction}
            for i, (dim, reduction) in enumerate(zip(self.config["dims"], reductions, strict=True))
        ]

    def _embed(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2], x.shape[-1]
        x = self.stem(x)
        if isinstance(x, Tensor):  # a symbol of torch.fx has no sizes to check
            self._check_size((height, width))
        return x

    def _keep_levels(self, count: int) -> bool:
        fits = count == len(self.stages)
        blocks = sum(self.config["depths"][:count])
        self.stages = self.stages[:count]
        self.config |= {name: self.config[name][:blocks] for name in PER_BLOCK}
        self.config |= {name: self.config[name][:count] for name in ("dims", "depths")}
        for name in ("layer_scale", "res_scale"):
            if isinstance(self.config[name], (list, tuple)):
                self.config[name] = self.config[name][:count]
        if count > 1:
            self.config["downsample"] = self.config["downsample"][: count - 1]
        self.num_features = self.head_hidden_size = self.config["dims"][-1]
        self._set_reductions()
        return fits

    # --- Sizes --------------------------------------------------------------------------------------------------------

    def _grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        """The grid of each stage, for images of a size."""
        grids = [self.stem.grid(img_size)]
        for stage in self.stages[1:]:
            grids.append(stage.downsample.grid(grids[-1]))
        return grids

    def set_input_size(
        self,
        img_size: int | Sequence[int] | None = None,
        patch_size: int | Sequence[int] | None = None,
        window_size: int | Sequence[int] | None = None,
    ) -> None:
        """Move the model to another image, patch or window size.

        Token mixers whose weights belong to their grid, position biases of windows that change, and the patch embedding
        are resampled in place; other weights stay as they are. Windows keep their size, so that the cost stays linear
        in the area of the image, unless `window_size` gives another.

        Args:
            img_size: Side of the images or (height, width); None keeps it.
            patch_size: Side of a patch or (height, width); None keeps it.
            window_size: Side of the windows or (height, width), for all mixers that have windows; None keeps it.

        Raises:
            ValueError: A size is none that the stem, a stage or a mixer can take. Then the model stays as it was.
        """
        img_size = self.img_size if img_size is None else to_pair(img_size, "img_size")
        window_size = unboxed(window_size)
        windowed = [hasattr(mixer, "set_window_size") for mixer in self._token_mixers()]
        if window_size is not None and not any(windowed):
            raise ValueError("window_size is given, but no token mixer of this model has windows; leave it out")
        old = self._grids(self.img_size)
        with all_or_nothing(self):
            self._set_patch_size(patch_size)
            grids = self._grids(img_size)
            for before, grid, stage in zip(old, grids, self.stages, strict=True):
                for block in stage.blocks:
                    if window_size is not None and hasattr(block.token_mixer, "set_window_size"):
                        block.token_mixer.set_grid(grid, window_size)
                    elif grid != before and hasattr(block.token_mixer, "set_grid"):
                        block.token_mixer.set_grid(grid)
        if window_size is not None:
            self.config["token_mixer"] = [
                Slot(slot.name, {**slot.options, "window_size": window_size}, slot.factory) if has_window else slot
                for slot, has_window in zip(self.config["token_mixer"], windowed, strict=True)
            ]
        self._moved(img_size, grids[0], patch_size)
        self._set_reductions()

    # --- Training and tools -------------------------------------------------------------------------------------------

    def facts(self, input_size: tuple[int, int, int]) -> dict[str, Any]:
        try:
            pool_size = self._grids(input_size[-2:])[-1]
        except ValueError:  # a model that was built for other sizes than its configuration has
            pool_size = None
        return {**super().facts(input_size), "pool_size": pool_size}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the blocks' inputs in training and compute the rest again in the backward pass."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict:
        """Patterns that group the parameters by depth, for layer-wise learning rates."""
        blocks = [
            (r"^stages\.(\d+)\.downsample\.", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^stem\.", "blocks": r"^stages\.(\d+)" if coarse else blocks}


def _per_stage(value: float | None | Sequence[float | None], stages: int, name: str) -> list[float | None]:
    """A value for each stage, from one for all or a list."""
    if not isinstance(value, (list, tuple)):
        return [value] * stages
    if len(value) != stages:
        raise ValueError(f"{name} has {len(value)} entries for {stages} stages; give one value for all, or one a stage")
    return list(value)
