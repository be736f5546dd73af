"""What every vision model of zoo has in common: timm's model interface, written once, on a stack of blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from torch import Tensor, fx, nn

from zoo.blocks.base import Aux, mean_losses, merge_aux
from zoo.blocks.head.pool import pool_tokens
from zoo.blocks.images import map_of, to_pair
from zoo.blocks.kernels import guard
from zoo.blocks.kernels.symbolic import is_symbol, settle_sizes, settled
from zoo.blocks.linear import linear
from zoo.blocks.mixer import Part, offers, trait
from zoo.checks import check_type, shown, unboxed
from zoo.checks.ranges import Channels, Classes, ImageSides, RateBelowOne
from zoo.skeletons.blocks import BlockArguments, BlockModel
from zoo.skeletons.inputs import check_images
from zoo.skeletons.model import block_at, check_offers, single_slot
from zoo.skeletons.undo import all_or_nothing
from zoo.slots import OfKind, Slot, SlotsLike, build_block
from zoo.slots.table import follows

fx.wrap("map_of")

POOLS = ("", "avg", "max", "token")
FORMATS = ("NCHW", "NHWC", "NLC")
HEAD = OfKind("head")

Levels = int | Sequence[int]  # of feature maps: so many of the last, or their indices
NewSize = int | Sequence[int] | None  # that a model is moved to: one for both sides or (height, width); None keeps it


@dataclass(frozen=True, kw_only=True)
class ImageArguments(BlockArguments):
    """What a model of images is built from, beside its blocks.

    Args:
        img_size: Side of the images, or (height, width).
        in_chans: Channels of the images.
        num_classes: Number of logits; 0 for no classifier.
        global_pool: ``avg``, ``max``, ``token`` (the class token) or ``""`` (all positions).
        stem: Slot of the stem.
        head: Slot of what comes last: ``linear``, a classifier; ``mlp``, a perceptron; ``tanh``, a classifier behind a
            map of the features' width and tanh; or ``image``, a linear map to an image of the input's size.
        pool_first: The final norm comes after the pooling, not before it.
        drop_rate: Dropout before the classifier.
        deploy: Build the form that `reparameterize` makes.
    """

    img_size: ImageSides = 224
    in_chans: Channels = 3
    num_classes: Classes = 1000
    global_pool: Literal[POOLS] = "avg"
    stem: SlotsLike = "patch"
    head: SlotsLike = "linear"
    pool_first: bool = False
    drop_rate: RateBelowOne = 0.0
    deploy: bool = False


class ImageModel(BlockModel):
    """Stem, levels, norm, head. A skeleton derives from this and defines what the first section names.

    Attributes:
        num_classes: Number of logits, 0 without a classifier.
        num_features, head_hidden_size: Width of the features, and of what the classifier sees.
        feature_info: A mapping a level: ``module``, ``num_chs``, ``reduction``.
        pretrained_cfg: What timm's tools ask for: input size, mean, std, interpolation, names of first layer and
            classifier.
    """

    slots = {**BlockModel.slots, "stem": "stem", "head": "head"}
    shorthands = {"stem_init": "stem.init", "head_init": "head.init"}
    hands_on = {**BlockModel.hands_on, "patch_size": "stem.patch_size"}
    output_fmt = "NLC"
    num_prefix_tokens = 0

    # --- What a skeleton defines --------------------------------------------------------------------------------------

    stem: nn.Module
    feature_info: list[dict]
    img_size: tuple[int, int]
    grid: tuple[int, int]

    def _embed(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to the layout of the levels."""
        raise NotImplementedError

    def _keep_levels(self, count: int) -> bool:
        """Remove all levels but the first `count`, from the model and from its config.

        Returns:
            Whether the final norm and the classifier still fit.
        """
        raise NotImplementedError

    @classmethod
    def count_levels(cls, arguments: Mapping) -> int:
        """Number of feature levels that ``features_only`` gives by default, from the constructor's arguments."""
        raise NotImplementedError

    def set_input_size(self, img_size: NewSize = None, patch_size: NewSize = None) -> None:
        """Move the model to another image or patch size; weights that depend on the grid are resampled.

        Where a size cannot be, the model stays as it was.
        """
        raise NotImplementedError

    # --- Stem and sizes -----------------------------------------------------------------------------------------------

    def _make_stem(self, arguments: ImageArguments, dim: int, followed: Mapping[str, Any], **place) -> None:
        """Create the stem, and note the sizes that it makes. Called first, by the skeleton."""
        self.img_size, self.in_chans = to_pair(arguments.img_size, "img_size"), arguments.in_chans
        patch_size = to_pair(arguments.patch_size, "patch_size")
        slot = single_slot(arguments.stem, "stem")
        self.config |= {"img_size": self.img_size, "patch_size": patch_size, "stem": [slot]}
        followed = {**followed, "patch_size": patch_size}
        self.stem = build_block("stem", slot, self.in_chans, dim, defaults=followed, img_size=self.img_size, **place)
        check_offers(self.stem, "grid", f"stem {slot}", "the grid that it makes of (height, width) of an image")
        self.grid = self.stem.grid(self.img_size)

    def _set_patch_size(self, patch_size: NewSize) -> None:
        """Give the stem another patch size; None keeps it."""
        if patch_size is not None:
            if not offers(self.stem, "set_patch_size"):
                raise ValueError(f"stem {self.config['stem'][0]} has no patches; leave patch_size out")
            self.stem.set_patch_size(patch_size)

    def _moved(self, img_size: tuple[int, int], grid: tuple[int, int], patch_size: NewSize) -> None:
        """Note the sizes that the model has been moved to."""
        self.img_size, self.grid = img_size, grid
        self.config["img_size"] = img_size
        if patch_size is not None:
            self.config["patch_size"] = to_pair(patch_size, "patch_size")
            (slot,) = self.config["stem"]
            if "patch_size" in slot.options:
                self.config["stem"] = [Slot(slot.name, {**slot.options, "patch_size": patch_size}, slot.factory)]
        self._traits = {**vars(self).get("_traits", {}), "img_size": img_size}  # where timm's data pipeline looks

    # --- Head ---------------------------------------------------------------------------------------------------------

    def _make_head(self, arguments: ImageArguments, dim: int, **place) -> None:
        """Create what comes after the final norm. Called last, by the skeleton."""
        self.num_features = self.head_hidden_size = dim
        self.drop_rate, self.pool_first = arguments.drop_rate, arguments.pool_first
        self.config["head"] = [single_slot(arguments.head, "head")]
        HEAD.check("head", self.config["head"][0])  # though without classes none is built
        self._set_classifier(arguments.num_classes, arguments.global_pool, **place)
        own = follows(self._head_class())
        self.head_drop = nn.Dropout(self.drop_rate) if self.drop_rate > 0 and "drop" not in own else None
        if arguments.deploy:
            self.reparameterize()

    def _head_class(self) -> Any:
        return block_at(type(self), "head", self.config["head"][0])

    @property
    def makes_image(self) -> bool:
        """Whether the model gives images in place of logits."""
        return trait(self.head, "makes_image", Part)

    def _set_classifier(self, num_classes: int, global_pool: str, **place) -> None:
        check_type("num_classes", num_classes, Classes)
        check_type("global_pool", global_pool, Literal[POOLS])
        if global_pool == "token" and not self.num_prefix_tokens:
            can = "embed" in self.config  # a model of stages takes none
            remedy = "create the model with class_token=True, or use" if can else "this kind of model has none; use"
            raise ValueError(f"global_pool='token' needs a class token; {remedy} 'avg', 'max' or ''")
        self.global_pool = global_pool
        image = trait(self._head_class(), "makes_image", Part)
        self.num_classes = self.config["num_classes"] = 0 if image else num_classes
        if not num_classes and not image:
            self.head = nn.Identity()
            return
        shape, drop = (self.in_chans, *self.img_size), {"drop": self.drop_rate}
        self.head = build_block(
            "head", self.config["head"][0], self.num_features, num_classes, defaults=drop, img_shape=shape, **place
        )

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Exchange the classifier for a newly initialised one (none for 0 classes), and the pooling if given."""
        num_classes = unboxed(num_classes)
        weight = next(self.parameters())
        pool, slot = self.global_pool if global_pool is None else global_pool, self.config["head"][0]
        with all_or_nothing(self):
            if self.makes_image:
                init = {key: value for key, value in slot.options.items() if key == "init"}
                self.config = {**self.config, "head": [Slot("linear", init)]}
            self._set_classifier(num_classes, pool, device=weight.device, dtype=weight.dtype)
        self.config |= {"global_pool": pool}
        self.head.train(self.training)

    # --- Forward ------------------------------------------------------------------------------------------------------

    def _enter(self, x: Tensor) -> Tensor:
        """The door for images: what comes is checked, and brought to the layout of the levels.

        Raises:
            TypeError: It is no tensor, or not of the numbers that the model computes with.
            ValueError: It has not the shape of a batch of images.
        """
        if not is_symbol(x):
            check_images(self, x)
            if guard.compiling() and any(trait(mixer, "cuts_grid") for mixer in self._token_mixers()):
                settle_sizes(x, -2, -1)
        return self._embed(x)

    def _features(self, x: Tensor, keywords: Mapping[str, Any]) -> tuple[Tensor, Aux]:
        x, aux = self._run_all(self._enter(x), keywords)
        return self._final(x), aux

    def _final(self, x: Tensor) -> Tensor:
        return x if self.pool_first else self.norm(x)

    def _check_size(self, size: tuple[int, int]) -> None:
        """Check the size of the images that came.

        Raises:
            ValueError: They give another grid than the one that weights were made for.
        """
        if not self._any_size and self.stem.grid(size) != self.grid:  # in this order: a look at a size settles it
            raise ValueError(
                f"image size {size[0]} x {size[1]} is not the {self.img_size[0]} x {self.img_size[1]} that this "
                f"model's weights were made for; call model.set_input_size({size}) to resample them, or create it "
                f"with img_size={size}"
            )

    @property
    def _any_size(self) -> bool:
        """Whether images of any size may come, because no weight depends on the grid."""
        return all(not trait(m, "needs_grid") or trait(m, "any_grid") for m in self._token_mixers())

    def _unpooled(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2) if self.output_fmt == "NLC" else x

    def forward_features(self, x: Tensor, return_aux: bool = False, **keywords) -> Tensor | tuple[Tensor, Aux]:
        """Features of the last level, unpooled, in the layout `output_fmt`; normalised unless `pool_first`.

        Args:
            x: Images ``(B, in_chans, H, W)``.
            return_aux: Return ``(features, aux)``, as in `forward`.
            keywords: As in `forward`.

        Shape: ``(B, in_chans, H, W) -> (B, prefix + N, num_features)``, or ``(B, H', W', num_features)``.
        """
        features, aux = self._features(x, keywords)
        features = self._unpooled(features)
        return (features, mean_losses(aux)) if return_aux else features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the result of `forward_features`, drop out, classify.

        Shape: ``(B, *, num_features) -> (B, num_classes)``; ``(B, num_features)`` with `pre_logits`.
        """
        x = pool_tokens(x.flatten(1, -2), self.global_pool, self.num_prefix_tokens) if self.global_pool else x
        if self.pool_first:
            x = self.norm(x)
        if self.head_drop is not None:
            x = self.head_drop(x)
        return x if pre_logits else linear(x, self.head)

    def forward(self, x: Tensor, return_aux: bool = False, **keywords) -> Tensor | tuple[Tensor, Aux]:
        """Logits of a batch of images, and on request what the mixers report beside them.

        Args:
            x: Images ``(B, in_chans, H, W)``.
            return_aux: Return ``(logits, aux)``. ``loss/<name>`` is differentiable and unweighted, the mean over the
                layers; ``stat/<name>`` is detached, an entry a layer. Empty for a model without such mixers.
            keywords: Keywords for the mixers that declare them, such as ``task=1`` where a router knows tasks.

        Raises:
            ValueError: The images are of a size that the model cannot take, or a keyword has a value that a mixer
                cannot take.
            TypeError: The images are not of the numbers that the model computes with, or a keyword is none that a
                mixer of the model declares.
        """
        return_aux, keywords = settled(return_aux, False), settled(keywords, {})
        features, aux = self._features(x, keywords)
        logits = self.forward_head(self._unpooled(features))
        return (logits, mean_losses(aux)) if return_aux else logits

    # --- Features -----------------------------------------------------------------------------------------------------

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Levels | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        return_aux: bool = False,
        **keywords,
    ):
        """Features of chosen levels.

        Args:
            x: Images ``(B, in_chans, H, W)``.
            indices: Levels: the last n for an integer, all for None, negative ones from the end. Features come in the
                model's order, each level once, whatever the order here.
            return_prefix_tokens: Give each as a pair (features, prefix tokens), where the model has such tokens.
            norm: Apply the final norm to each that it fits: in a hierarchical model the last; none where it belongs to
                the head.
            stop_early: Do not run the levels after the last one asked for.
            output_fmt: ``NCHW``, ``NHWC`` or ``NLC``.
            intermediates_only: Leave out the final features.
            return_aux: Return the auxiliary outputs too, those of all levels that were run, as in `forward`.
            keywords: As in `forward`.

        Returns:
            (final features, list of features); the list alone with `intermediates_only`. With `return_aux` the
            auxiliary outputs come last: (final features, list, aux), or (list, aux).

        Raises:
            ValueError: The format or an index is none of the model's; and as `forward`.
            TypeError: As `forward`.
        """
        fmt = output_fmt.value if isinstance(output_fmt, Enum) else output_fmt  # timm's FeatureGetterNet passes an enum
        fmt = fmt.upper() if isinstance(fmt, str) else fmt
        if fmt not in FORMATS:  # by hand: a compiler cannot follow `check_type`
            raise ValueError(f"output_fmt is {shown(fmt)}; it must be one of {', '.join(map(repr, FORMATS))}")
        chosen, last = self.take_levels(indices)
        images, features, auxes = x, [], []
        x = self._enter(images)  # first: the grid of a wrong image would be refused in other words
        grid = self.stem.grid((images.shape[-2], images.shape[-1]))
        levels = self.levels[: last + 1] if stop_early else self.levels
        for i, (y, aux) in enumerate(self._run(x, levels, keywords)):
            x = y
            auxes.append(aux)
            if i in chosen:
                widest = self.feature_info[i]["num_chs"] == self.num_features  # a symbol has no sizes to compare
                features.append(self._final(x) if norm and widest else x)
        prefix = self.num_prefix_tokens
        maps = [map_of(y, prefix, grid) for y in features]  # (B, H, W, C)
        if fmt == "NLC":
            maps = [m.flatten(1, 2) for m in maps]
        elif fmt == "NCHW":
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        if return_prefix_tokens and prefix:
            maps = [(m, y[:, :prefix]) for m, y in zip(maps, features, strict=True)]
        aux = (mean_losses(merge_aux(auxes)),) if return_aux else ()
        if intermediates_only:
            return (maps, *aux) if return_aux else maps
        return self._unpooled(self._final(x) if x.shape[-1] == self.num_features else x), maps, *aux

    def prune_intermediate_layers(
        self, indices: Levels = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the levels after the last one asked for.

        The final norm and the classifier go too if that is wanted, or if they no longer fit.

        Returns:
            The indices, counted from the start.
        """
        chosen, last = self.take_levels(indices)
        fits = self._keep_levels(last + 1)
        if prune_norm or not fits:
            self.norm = nn.Identity()
            self.config["final_norm"] = [Slot("none")]
        if prune_head or not fits:
            self.reset_classifier(0, "")
        return chosen

    def take_levels(self, indices: Levels | None) -> tuple[list[int], int]:
        """Absolute indices of levels in the model's order, each once, as features come; and the greatest of them."""
        count = len(self.levels)
        if indices is None:
            indices = count
        if isinstance(indices, int):
            if not 0 < indices <= count:
                raise ValueError(f"cannot take the last {shown(indices)} of {count} feature levels; give 1 to {count}")
            indices = range(count - indices, count)
        chosen = [count + i if i < 0 else i for i in indices]
        if not chosen or min(chosen) < 0 or max(chosen) >= count:
            raise ValueError(
                f"feature indices {shown(list(indices))} are not all within the {count} levels (0 to {count - 1})"
            )
        chosen = sorted(set(chosen))
        return chosen, chosen[-1]

    # --- Training and tools -------------------------------------------------------------------------------------------

    def facts(self, input_size: tuple[int, int, int]) -> dict[str, Any]:
        convs = (f"stem.{name}" for name, module in self.stem.named_modules() if isinstance(module, nn.Conv2d))
        layers = [name for name, module in self.head.named_modules() if isinstance(module, nn.Linear)]
        last = f"head.{layers[-1]}".rstrip(".") if layers else "head"
        # As in timm, features in a row have no pool size.
        return {"first_conv": next(convs, ()), "classifier": last, "pool_size": None}

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that this model was made for."""
        return (self.in_chans, *self.img_size)
