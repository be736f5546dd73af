"""What every vision model of zoo has in common: timm's model interface, written once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from zoo.blocks.base import Aux, keywords_of, mean_losses, merge_aux
from zoo.blocks.head.image import ImageHead
from zoo.blocks.head.mlp import MlpHead
from zoo.blocks.head.pool import pool_tokens
from zoo.blocks.head.tanh import TanhHead
from zoo.blocks.images import to_pair
from zoo.blocks.init import InitLike
from zoo.blocks.kernels import guard
from zoo.blocks.kernels.symbolic import is_symbol, settle_sizes, settled
from zoo.blocks.linear import Linear, linear
from zoo.checks import check_type, shown, unboxed
from zoo.checks.ranges import Classes
from zoo.skeletons.checkpointing import run_block
from zoo.skeletons.inputs import check_images
from zoo.skeletons.model import Model
from zoo.skeletons.undo import all_or_nothing
from zoo.slots import Slot

# Kinds of heads, and the name of their last layer.
HEADS = {"linear": "head", "mlp": "head.fc2", "image": "head.proj", "tanh": "head.fc2"}
POOLS = ("", "avg", "max", "token")
FORMATS = ("NCHW", "NHWC", "NLC")


class Backbone(Model):
    """Stem, levels, norm, head. A skeleton derives from this and defines what the first section names.

    Attributes:
        num_classes: Number of logits, 0 without a classifier.
        num_features, head_hidden_size: Width of the features, and of what the classifier sees.
        feature_info: A mapping a level: ``module``, ``num_chs``, ``reduction``.
        pretrained_cfg: What timm's tools ask for: input size, mean, std, interpolation, names of first layer and
            classifier.
    """

    hands_on = {
        "act": "*.act",
        "init": "*.init",
        "patch_size": "stem.patch_size",
        "proj_drop_rate": "*_mixer.drop",
        "attn_drop_rate": "token_mixer.attn_drop",
    }
    output_fmt = "NLC"
    num_prefix_tokens = 0
    pool_first = False  # the final norm comes after the pooling, as part of the head

    # --- What a skeleton defines --------------------------------------------------------------------------------------

    levels: nn.Sequential  # run one after another, each gives one feature map
    stem: nn.Module
    norm: nn.Module
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

    def _token_mixers(self) -> Iterator[nn.Module]:
        """Every token mixer."""
        raise NotImplementedError

    @classmethod
    def count_levels(cls, arguments: Mapping) -> int:
        """Number of feature levels that ``features_only`` gives by default, from the constructor's arguments."""
        raise NotImplementedError

    def set_input_size(self, img_size: int | Sequence[int] | None = None, patch_size: int | None = None) -> None:
        """Move the model to another image or patch size; weights that depend on the grid are resampled.

        Where a size cannot be, the model stays as it was.
        """
        raise NotImplementedError

    def _set_patch_size(self, patch_size: int | Sequence[int] | None) -> None:
        """Give the stem another patch size; None keeps it."""
        if patch_size is not None:
            if not hasattr(self.stem, "set_patch_size"):
                raise ValueError(f"stem {self.config['stem'][0]} has no patches; leave patch_size out")
            self.stem.set_patch_size(patch_size)

    def _moved(self, img_size: tuple[int, int], grid: tuple[int, int], patch_size: int | Sequence[int] | None) -> None:
        """Note the sizes that the model has been moved to."""
        self.img_size, self.grid = img_size, grid
        self.config["img_size"] = img_size
        if patch_size is not None:
            self.config["patch_size"] = to_pair(patch_size, "patch_size")
        self._traits = {**getattr(self, "_traits", {}), "img_size": img_size}  # where timm's data pipeline looks

    # --- Head ---------------------------------------------------------------------------------------------------------

    def _make_head(
        self,
        dim: int,
        num_classes: int,
        global_pool: str,
        *,
        head: str,
        init: InitLike,
        drop: float,
        device=None,
        dtype=None,
    ) -> None:
        """Create what comes after the final norm. Called once, by the skeleton's constructor."""
        self.num_features = self.head_hidden_size = dim
        self.head_init, self.head_kind, self.drop_rate = init, head, drop
        self.grad_checkpointing = False
        self.head_drop = nn.Dropout(drop) if drop > 0 and head not in ("mlp", "tanh") else None
        if head == "image":
            self.num_classes, self.global_pool = 0, self._checked_pool(global_pool)
            self.config["num_classes"] = 0
            self.head = ImageHead(dim, (self.in_chans, *self.img_size), init=init, device=device, dtype=dtype)
        else:
            self._set_classifier(num_classes, global_pool, device, dtype)

    def _checked_pool(self, global_pool: str) -> str:
        check_type("global_pool", global_pool, Literal[POOLS])
        if global_pool == "token" and not self.num_prefix_tokens:
            can = "class_token" in self.config  # a model of stages takes none
            remedy = "create the model with class_token=True, or use" if can else "this kind of model has none; use"
            raise ValueError(f"global_pool='token' needs a class token; {remedy} 'avg', 'max' or ''")
        return global_pool

    def _set_classifier(self, num_classes: int, global_pool: str, device, dtype) -> None:
        check_type("num_classes", num_classes, Classes)
        self.global_pool, self.num_classes = self._checked_pool(global_pool), num_classes
        options = {"init": self.head_init, "device": device, "dtype": dtype}
        if not num_classes:
            self.head = nn.Identity()
        elif self.head_kind in ("mlp", "tanh"):
            head = MlpHead if self.head_kind == "mlp" else TanhHead
            self.head = head(self.num_features, num_classes, drop=self.drop_rate, **options)
        else:
            self.head = Linear(self.num_features, num_classes, **options)

    def get_classifier(self) -> nn.Module:
        """What makes logits of pooled features: a linear map or a perceptron; an identity if `num_classes` is 0."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Exchange the classifier for a newly initialised one (none for 0 classes), and the pooling if given."""
        num_classes = unboxed(num_classes)
        weight = next(self.parameters())
        pool = self.global_pool if global_pool is None else global_pool
        with all_or_nothing(self):
            self.head_kind = "linear" if self.head_kind == "image" else self.head_kind
            self._set_classifier(num_classes, pool, weight.device, weight.dtype)
        self.config |= {"num_classes": num_classes, "global_pool": pool, "head": self.head_kind}
        self.head.train(self.training)

    # --- Forward ------------------------------------------------------------------------------------------------------

    @property
    def takes(self) -> frozenset[str]:
        """Optional keywords of a call that a mixer declares, such as the ``task`` of a router that knows tasks."""
        return frozenset().union(*[keywords_of(level) for level in self.levels])

    def _run(self, x: Tensor, levels: nn.Sequential, given: Mapping[str, Any]) -> Iterator[tuple[Tensor, Aux]]:
        """Run the levels; yields the output and the auxiliary outputs of each.

        Raises:
            TypeError: A keyword is none that a mixer of the model declares.
        """
        if given and not given.keys() <= (takes := self.takes):
            name = min(given.keys() - takes)
            known = ", ".join(sorted(takes)) or "none"
            raise TypeError(
                f"no mixer of this {type(self).__name__} takes the keyword {shown(name)}; they take {known}"
            )
        for level in levels:
            x, aux = run_block(level, x, self.grad_checkpointing, given)
            yield x, aux

    def _enter(self, x: Tensor) -> Tensor:
        """The door for images: what comes is checked, and brought to the layout of the levels.

        Raises:
            TypeError: It is no tensor, or not of the numbers that the model computes with.
            ValueError: It has not the shape of a batch of images.
        """
        if not is_symbol(x):
            check_images(self, x)
            if guard.compiling() and any(getattr(mixer, "cuts_grid", False) for mixer in self._token_mixers()):
                settle_sizes(x, -2, -1)
        return self._embed(x)

    def _features(self, x: Tensor, given: Mapping[str, Any]) -> tuple[Tensor, Aux]:
        x, auxes = self._enter(x), []
        for y, aux in self._run(x, self.levels, given):
            x = y
            auxes.append(aux)
        return self._final(x), merge_aux(auxes)

    def _final(self, x: Tensor) -> Tensor:
        return x if self.pool_first else self.norm(x)

    def _check_size(self, size: tuple[int, int]) -> None:
        """Check the size of the images that came.

        Raises:
            ValueError: They give another grid than the one that weights were made for.
        """
        if self.stem.grid(size) != self.grid and not self._any_size:
            raise ValueError(
                f"image size {size[0]} x {size[1]} is not the {self.img_size[0]} x {self.img_size[1]} that this "
                f"model's weights were made for; call model.set_input_size({size}) to resample them, or create it "
                f"with img_size={size}"
            )

    @property
    def _any_size(self) -> bool:
        """Whether images of any size may come, because no weight depends on the grid."""
        return all(not hasattr(m, "set_grid") or getattr(m, "any_grid", False) for m in self._token_mixers())

    def _unpooled(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2) if self.output_fmt == "NLC" else x

    def forward_features(self, x: Tensor, return_aux: bool = False, **given) -> Tensor | tuple[Tensor, Aux]:
        """Features of the last level, unpooled, in the layout `output_fmt`; normalised unless `pool_first`.

        Args:
            x: Images ``(B, in_chans, H, W)``.
            return_aux: Return ``(features, aux)``, as in `forward`.
            given: As in `forward`.

        Shape: ``(B, in_chans, H, W) -> (B, prefix + N, num_features)``, or ``(B, H', W', num_features)``.
        """
        features, aux = self._features(x, given)
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

    def forward(self, x: Tensor, return_aux: bool = False, **given) -> Tensor | tuple[Tensor, Aux]:
        """Logits of a batch of images, and on request what the mixers report beside them.

        Args:
            x: Images ``(B, in_chans, H, W)``.
            return_aux: Return ``(logits, aux)``. ``loss/<name>`` is differentiable and unweighted, the mean over the
                layers; ``stat/<name>`` is detached, an entry a layer. Empty for a model without such mixers.
            given: Keywords for the mixers that declare them, such as ``task=1`` where a router knows tasks.

        Raises:
            ValueError: The images are of a size that the model cannot take, or a keyword has a value that a mixer
                cannot take.
            TypeError: The images are not of the numbers that the model computes with, or a keyword is none that a
                mixer of the model declares.
        """
        return_aux, given = settled(return_aux, False), settled(given, {})
        features, aux = self._features(x, given)
        logits = self.forward_head(self._unpooled(features))
        return (logits, mean_losses(aux)) if return_aux else logits

    # --- Features -----------------------------------------------------------------------------------------------------

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        return_aux: bool = False,
        **given,
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
            given: As in `forward`.

        Returns:
            (final features, list of features); the list alone with `intermediates_only`. With `return_aux` the
            auxiliary outputs come last: (final features, list, aux), or (list, aux).

        Raises:
            ValueError: The format or an index is none of the model's; and as `forward`.
            TypeError: As `forward`.
        """
        fmt = getattr(output_fmt, "value", output_fmt)  # timm's FeatureGetterNet passes an enum
        fmt = fmt.upper() if isinstance(fmt, str) else fmt
        if fmt not in FORMATS:  # by hand: a compiler cannot follow `check_type`
            raise ValueError(f"output_fmt is {shown(fmt)}; it must be one of {', '.join(map(repr, FORMATS))}")
        take, last = self.take_levels(indices)
        images, found, auxes = x, [], []
        x = self._enter(images)  # first: the grid of a wrong image would be refused in other words
        grid = self.stem.grid((images.shape[-2], images.shape[-1]))
        levels = self.levels[: last + 1] if stop_early else self.levels
        for i, (y, aux) in enumerate(self._run(x, levels, given)):
            x = y
            auxes.append(aux)
            if i in take:
                found.append(self._final(x) if norm and x.shape[-1] == self.num_features else x)
        prefix = self.num_prefix_tokens
        maps = [_to_format(y[:, prefix:].unflatten(1, grid) if y.ndim == 3 else y, fmt) for y in found]
        if return_prefix_tokens and prefix:
            maps = [(m, y[:, :prefix]) for m, y in zip(maps, found, strict=True)]
        aux = (mean_losses(merge_aux(auxes)),) if return_aux else ()
        if intermediates_only:
            return (maps, *aux) if return_aux else maps
        return self._unpooled(self._final(x) if x.shape[-1] == self.num_features else x), maps, *aux

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the levels after the last one asked for.

        The final norm and the classifier go too if that is wanted, or if they no longer fit.

        Returns:
            The indices, counted from the start.
        """
        take, last = self.take_levels(indices)
        fits = self._keep_levels(last + 1)
        if prune_norm or not fits:
            self.norm = nn.Identity()
            self.config["final_norm"] = [Slot("none")]
        if prune_head or not fits:
            self.reset_classifier(0, "")
        return take

    def take_levels(self, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
        """Absolute indices of levels in the model's order, each once, as features come; and the greatest of them."""
        count = len(self.levels)
        if indices is None:
            indices = count
        if isinstance(indices, int):
            if not 0 < indices <= count:
                raise ValueError(f"cannot take the last {shown(indices)} of {count} feature levels; give 1 to {count}")
            indices = range(count - indices, count)
        take = [count + i if i < 0 else i for i in indices]
        if not take or min(take) < 0 or max(take) >= count:
            raise ValueError(
                f"feature indices {shown(list(indices))} are not all within the {count} levels (0 to {count - 1})"
            )
        take = sorted(set(take))
        return take, take[-1]

    # --- Training and tools -------------------------------------------------------------------------------------------

    def facts(self, input_size: tuple[int, int, int]) -> dict[str, Any]:
        convs = (f"stem.{name}" for name, module in self.stem.named_modules() if isinstance(module, nn.Conv2d))
        # As in timm, features in a row have no pool size.
        return {"first_conv": next(convs, ()), "classifier": HEADS[self.head_kind], "pool_size": None}

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that this model was made for."""
        return (self.in_chans, *self.img_size)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the levels' inputs in training and compute the rest again in the backward pass."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict:
        """Patterns that group the parameters by depth, for layer-wise learning rates."""
        return {"stem": r"^(?:stem|tokens)\.", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}


def _to_format(x: Tensor, fmt: str) -> Tensor:
    """A feature map ``(B, H, W, C)`` in another layout."""
    if fmt == "NLC":
        return x.flatten(1, 2)
    return x.permute(0, 3, 1, 2).contiguous() if fmt == "NCHW" else x
