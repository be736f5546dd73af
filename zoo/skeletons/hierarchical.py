"""The hierarchical skeleton: stages of falling resolution and rising width."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from zoo.blocks.base import Aux, MetaBlock, merge_aux
from zoo.blocks.images import to_pair
from zoo.blocks.mixer import Part, offers, trait
from zoo.checks import unboxed
from zoo.checks.ranges import Depths, Sides, Widths
from zoo.skeletons.blocks import PER_BLOCK, PER_STAGE
from zoo.skeletons.checkpointing import run_block
from zoo.skeletons.image import ImageArguments, ImageModel, NewSize
from zoo.skeletons.model import check_offers, single_slot
from zoo.skeletons.undo import all_or_nothing
from zoo.slots import Slot, SlotsLike, build_block, resolve_slots


class Stage(nn.Module):
    """Downsampling, if any, and the blocks of one resolution.

    With shortcuts between the stages a stage is given, behind its input, what earlier ones handed on: what entered
    them. It brings each to its own resolution, adds it to what enters its blocks, and hands it on, with its own.

    Shape: ``(B, H, W, C) -> (B, H', W', C')``; with what is handed on behind it, a tuple, if it has `shortcuts`; with
        the auxiliary outputs behind it, ``(x, aux)``, if `has_aux`. Keywords of the forward pass go to the mixers that
        declare them.
    """

    def __init__(
        self, downsample: nn.Module | None, blocks: Sequence[MetaBlock], shortcuts: Sequence[nn.Module] | None = None
    ):
        super().__init__()
        self.downsample = downsample
        self.shortcuts = None if shortcuts is None else nn.ModuleList(shortcuts)
        self.blocks = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    @property
    def has_aux(self) -> bool:
        """Whether a block returns auxiliary outputs."""
        return any(block.has_aux for block in self.blocks)

    @property
    def keywords(self) -> frozenset[str]:
        """Optional keywords that a mixer of a block declares."""
        return frozenset().union(*[trait(block, "keywords") for block in self.blocks])

    def forward(self, x: Tensor | tuple[Tensor, ...], **keywords):
        x, *handed = x if isinstance(x, tuple) else (x,)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.shortcuts is not None:
            entered, handed = x, [cut_to(short(y), x) for short, y in zip(self.shortcuts, handed, strict=True)]
            for y in handed:
                x = x + y
            handed.append(entered)
        x, auxes = x.contiguous(), []  # a convolution may leave it strided, and every block would copy it again
        for block in self.blocks:
            x, aux = run_block(block, x, self.grad_checkpointing, keywords)
            auxes.append(aux)
        x = x if self.shortcuts is None else (x, *handed)
        return (x, merge_aux(auxes)) if self.has_aux else x


@fx.wrap
def cut_to(x: Tensor, like: Tensor) -> Tensor:
    """A map cut to the grid of another, which may have left out rows and columns that filled no whole square."""
    return x[:, : like.shape[1], : like.shape[2]]


def _check_meets(slot: Slot, shortcuts: Sequence[nn.Module | None], before: tuple[int, int], grid: tuple[int, int]):
    """Check that shortcuts make of a grid what the downsampling beside them makes of it, or one row or column more.

    Raises:
        ValueError: One makes another grid.
    """
    for short in shortcuts:
        if short is None:
            continue
        check_offers(short, "grid", f"shortcut {slot}", "the grid that it makes of a grid")
        if any(made - wanted not in (0, 1) for made, wanted in zip(short.grid(before), grid, strict=True)):
            raise ValueError(
                f"shortcut {slot} makes a grid of {short.grid(before)} of one of {before}, and the downsampling beside "
                f"it {grid}; give it the stride of the downsampling, or leave its stride out"
            )


@dataclass(frozen=True, kw_only=True)
class HierarchicalArguments(ImageArguments):
    """What a hierarchical model is built from.

    Args:
        dims: Width of each stage.
        depths: Number of blocks of each stage.
        patch_size: Patch of a stem that follows the model in it: a side, or (height, width).
        downsample: Slot of what comes before every stage but the first.
        shortcut: Slot of what brings that which enters a stage, behind the downsampling, to the next stage, past the
            blocks, and from there to the one after it; it is added to what enters their blocks.
        final_norm: Slot of the norm before the head; True for that of the last block.
    """

    dims: Widths
    depths: Depths
    patch_size: Sides = 4
    downsample: SlotsLike = "merge"
    shortcut: SlotsLike = "none"
    final_norm: SlotsLike | bool = "layernorm"


class Hierarchical(ImageModel):
    """Stem, stages, norm, head: the skeleton of Swin, MetaFormer, ConvNeXt and UniRepLKNet.

    Its arguments are those of `HierarchicalArguments`, `zoo.skeletons.image.ImageArguments` and
    `zoo.skeletons.blocks.BlockArguments`, and ``stem_init`` and ``head_init``, options of its slots. Images of other
    sizes than `img_size` may come too, unless a token mixer's weights belong to its grid.

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

    Arguments = HierarchicalArguments
    slots = {**ImageModel.slots, "downsample": "downsample", "shortcut": "shortcut"}
    hands_on = {**ImageModel.hands_on, "downsample": "downsample", "shortcut": "shortcut"}
    output_fmt = "NHWC"

    def _build(self, arguments: HierarchicalArguments, **place) -> None:
        dims, depths = tuple(arguments.dims), tuple(arguments.depths)
        if len(dims) != len(depths):
            raise ValueError(f"dims has {len(dims)} entries and depths {len(depths)}; both need one a stage")
        self.config |= {"dims": dims, "depths": depths}
        followed = {"init": arguments.init, "act": arguments.act}
        self._make_stem(arguments, dims[0], followed, **place)
        stack = self._stack(arguments, dims, depths, **place)
        downs, stages, grid = [None], [], self.grid
        if len(dims) > 1:
            downs += resolve_slots(arguments.downsample, len(dims) - 1, "downsample")
            self.config["downsample"] = downs[1:]
        short = single_slot(arguments.shortcut, "shortcut")
        self.config["shortcut"] = [short]
        for i, slot in enumerate(downs):
            down = shortcuts = None
            if slot is not None:
                down = build_block("downsample", slot, dims[i - 1], dims[i], defaults=arguments.followed, **place)
                check_offers(down, "grid", f"downsample {slot}", "the grid that it makes of a grid")
                before, grid = grid, down.grid(grid)
                given = {**arguments.followed, "stride": down.stride}
                shortcuts = [
                    build_block("shortcut", short, dims[i - 1], dims[i], defaults=given, **place) for _ in range(i - 1)
                ]
                _check_meets(short, shortcuts, before, grid)
            stages.append(Stage(down, stack.blocks(i, grid), None if short.name == "none" else shortcuts))
        self.stages = nn.Sequential(*stages)
        self.norm = stack.final_norm()
        self.feature_info = []
        self._set_reductions()
        self._make_head(arguments, dims[-1], **place)

    # --- The model as a list of levels --------------------------------------------------------------------------------

    @property
    def levels(self) -> nn.Sequential:
        return self.stages

    def _token_mixers(self) -> Iterator[nn.Module]:
        return (block.token_mixer for stage in self.stages for block in stage.blocks)

    @classmethod
    def count_levels(cls, arguments: Mapping) -> int:
        return len(arguments["depths"])

    def _run(self, x: Tensor, levels: nn.Sequential, keywords: Mapping[str, Any]) -> Iterator[tuple[Tensor, Aux]]:
        for y, aux in super()._run(x, levels, keywords):
            yield y[0] if isinstance(y, tuple) else y, aux  # what a stage hands on is for the next one alone

    def _set_reductions(self) -> None:
        """Fill `feature_info`: pixels of the image to one position of each stage."""
        strides = [trait(self.stem, "stride", Part) or self.img_size[0] // self.grid[0]]
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
        for name in PER_STAGE:
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

    def set_input_size(self, img_size: NewSize = None, patch_size: NewSize = None, window_size: NewSize = None) -> None:
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
        windowed = [offers(mixer, "set_window_size") for mixer in self._token_mixers()]
        if window_size is not None and not any(windowed):
            raise ValueError("window_size is given, but no token mixer of this model has windows; leave it out")
        old = self._grids(self.img_size)
        with all_or_nothing(self):
            self._set_patch_size(patch_size)
            grids = self._grids(img_size)
            for before, grid, stage in zip(old, grids, self.stages, strict=True):
                for block in stage.blocks:
                    if window_size is not None and offers(block.token_mixer, "set_window_size"):
                        block.token_mixer.set_grid(grid, window_size)
                    elif grid != before and trait(block.token_mixer, "needs_grid"):
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
