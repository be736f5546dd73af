"""What a family's file says, as data: its model, its variants, what was published of them and what was counted."""

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from zoo.checks import shown, unknown
from zoo.skeletons.model import Model
from zoo.slots import Slot, copied
from zoo.weights import Rule
from zoo.weights.pretrained import check_cfg

TIMM = "timm's tables of results, or its models as it builds them"

# Of a pretrained configuration: how images were prepared for most models that learnt from ImageNet.
IMAGENET = MappingProxyType(dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, interpolation="bicubic"))


@dataclass(frozen=True)
class Published:
    """Figures that the authors of one ``architecture.tag`` published, or those who published its weights.

    A figure has as many digits as were printed. What nobody published is None; what was counted in its place is a
    `Counted`.

    Attributes:
        params: Parameters, in millions.
        macs: Multiply-accumulates of one image with 1000 classes, in billions.
        top1: Accuracy on ImageNet-1K's validation set, in percent, at the same size of images.
        classes: Number of classes that `params` was counted with.
        weights: Where the weights are: ``hf-hub:owner/name``, ``hf-hub:owner/name/file``, a URL, or ``gs://…`` for a
            folder or the beginning of several files' names in a bucket; None if none were released.
        img_size: Side of the images; None for the variant's own.
        cfg: Keys of the pretrained configuration that differ from the family's; for names that timm does not have.
        deploy_params: Parameters after `reparameterize`, in millions; `macs` are those of this form if it is given.
        source: Where the figures stand.
    """

    params: float | None = None
    macs: float | None = None
    top1: float | None = None
    classes: int = 1000
    weights: str | None = None
    img_size: int | None = None
    deploy_params: float | None = None
    cfg: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __str__(self) -> str:
        figures = _figures(self)
        return f"{figures} ({self.source})" if figures and self.source else figures


PLACES = r"hf-hub:[^/]+/[^/]+(/.+)?|(https?|gs)://.+"


@dataclass(frozen=True)
class Counted:
    """Figures of one ``architecture.tag`` that were counted, because nobody published them or only roughly.

    Attributes:
        params, macs, deploy_params: As in `Published`. MACs that zoo counted are those of the model as it is, with its
            own number of classes.
        by_zoo: Those of them that zoo counted on its own model: they say what zoo builds and prove nothing. The others
            were counted on the authors' code.
    """

    params: float | None = None
    macs: float | None = None
    deploy_params: float | None = None
    by_zoo: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = {
            "on the authors' code": [name for name in FIGURES if name not in self.by_zoo],
            "by zoo": [name for name in FIGURES if name in self.by_zoo],
        }
        places = {where: _figures(self, names) for where, names in parts.items()}
        return "; ".join(f"{text} {where}" for where, text in places.items() if text)


@dataclass(frozen=True)
class Facts:
    """What to know of a family before its models are taken: a few words each, in Markdown, that end with a full stop.

    What the papers are stands in the header of the family's file; the licence of weights, with each set of them.

    Attributes:
        use: What the models are for.
        not_for: What they are not for.
        data: What the released weights learnt from, by their tags where these differ.
        code_licence: The licence of the authors' code.

    Raises:
        TypeError: One of them is no text.
        ValueError: One is empty, has more than one paragraph, or no full stop.
    """

    use: str
    not_for: str
    data: str
    code_licence: str

    def __post_init__(self):
        for name, text in vars(self).items():
            if not isinstance(text, str):
                raise TypeError(f"{name} of the facts is a {type(text).__name__}; it must be a text")
            if not text.endswith(".") or "\n" in text:
                raise ValueError(
                    f"{name} of the facts is {shown(text)}; write one paragraph, and a full stop behind it"
                )


FIGURES = {"params": "M parameters", "deploy_params": "M parameters when merged", "macs": "G MACs"}


def _figures(row: Published | Counted, names: Any = (*FIGURES, "top1")) -> str:
    """Those of a row's figures that are known."""
    units = {**FIGURES, "top1": "% top-1"}
    values = {name: getattr(row, name) for name in names}
    return ", ".join(f"{value} {units[name]}" for name, value in values.items() if value is not None)


def released(weights: str, source: str, rows: Mapping[str, Published]) -> dict[str, Published]:
    """The rows with the place of their weights, and with where their figures stand.

    Example:
        >>> released("hf-hub:me/{}.pth", "a README", {"mine.v1": Published(5.0)})["mine.v1"].weights
        'hf-hub:me/mine.v1.pth'

    Args:
        weights: The place, as in `Published`; ``{}`` stands for the name of a row, or for what the row itself has as
            `weights`.
        source: As in `Published`.
        rows: By ``architecture.tag``.
    """
    return {
        name: replace(row, weights=weights.format(row.weights or name), source=source) for name, row in rows.items()
    }


def on_timm_hub(rows: Mapping[str, Published]) -> dict[str, Published]:
    """The rows with the place of their weights, for those that timm publishes: ``hf-hub:timm/<architecture.tag>``."""
    tagged = {name: row for name, row in rows.items() if "." in name}
    named = {name: replace(row, source=TIMM) for name, row in rows.items()}
    return named | released("hf-hub:timm/{}", TIMM, tagged)


class FrozenList(tuple):
    """A list within a `Family`: a tuple that becomes a list again for whoever gets a copy."""


def frozen(value: Any, label: str) -> Any:
    """A copy of a value in which no mapping, list, set or slot can be changed, at any depth.

    Raises:
        ValueError: It is nested too deeply, or contains itself; `label` is its name in the message.
    """

    def freeze(value: Any) -> Any:
        if isinstance(value, Mapping):
            return MappingProxyType({key: freeze(entry) for key, entry in value.items()})
        if isinstance(value, (list, FrozenList)):
            return FrozenList(map(freeze, value))
        if isinstance(value, tuple):
            return tuple(map(freeze, value))
        if isinstance(value, set):
            return frozenset(value)
        if isinstance(value, (Slot, Published)):
            part = "options" if isinstance(value, Slot) else "cfg"
            return replace(value, **{part: freeze(getattr(value, part))})
        return value

    return freeze(copied(value, label))


def thawed(value: Any) -> Any:
    """A copy of what `frozen` made, as it was before: the caller's own, to keep and to change."""
    if isinstance(value, Mapping):
        return {key: thawed(entry) for key, entry in value.items()}
    if isinstance(value, FrozenList):
        return [thawed(entry) for entry in value]
    if isinstance(value, tuple):
        return tuple(map(thawed, value))
    if isinstance(value, frozenset):
        return set(value)
    if isinstance(value, (Slot, Published)):
        part = "options" if isinstance(value, Slot) else "cfg"
        return replace(value, **{part: thawed(getattr(value, part))})
    return value


def _module_that_runs() -> str:
    """The module whose top level is being run, which is how ``collections.namedtuple`` knows its own; else nothing."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return "" if frame is None else frame.f_globals.get("__name__", "")


@dataclass(frozen=True)
class Family:
    """A family: variants of one model, and what is known of them. Its file has it as the attribute ``FAMILY``.

    Nothing in it can be changed: mappings and lists are copied and frozen, however deep they lie.

    Example:
        >>> from zoo.skeletons.isotropic import Isotropic
        >>> mine = Family(model=Isotropic, defaults=dict(token_mixer=["pool"]), variants={"mine": dict(dim=32)})
        >>> mine.arguments("mine")
        {'token_mixer': ['pool'], 'dim': 32}
        >>> wider = mine.derive(defaults=dict(norm="affine"), variants={"wider": dict(dim=64)})
        >>> wider.arguments("wider")
        {'token_mixer': ['pool'], 'norm': 'affine', 'dim': 64}

    Attributes:
        model: A skeleton, derived from `zoo.skeletons.model.Model`.
        variants: By name, the arguments of the model that are a variant's own. One is called ``<family>_test``: the
            same topology, with the least width and depth.
        defaults: Arguments that all variants begin with.
        published: By ``architecture.tag``, figures that the authors published, each with its source.
        counted: Likewise, figures that were counted because nobody published them.
        rules: What becomes of the keys of published checkpoints; `zoo.weights.layouts` has what many have in common.
        tasks: What the models are for.
        cfg: Keys of the pretrained configurations of variants that timm does not have; most begin with `IMAGENET`.
        facts: What the models are for and not for, what their weights learnt from; for the model card.
        name, module, about: What the file tells by itself, filled in when it is discovered: the last part of its
            module's name, that name, and its docstring, which has the papers, the code and the weights.

    Raises:
        TypeError: A field is unknown or missing, or a value is of another type.
        ValueError: A name is unknown: of an argument, of a variant, of a key of the configuration.
    """

    _: KW_ONLY
    model: type[Model]
    variants: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Published] = field(default_factory=dict)
    counted: Mapping[str, Counted] = field(default_factory=dict)
    rules: Sequence[Rule] = ()
    tasks: Sequence[str] = ("classification",)
    cfg: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts | None = None
    name: str = ""
    module: str = field(default_factory=_module_that_runs)
    about: str = ""

    def __new__(cls, *args, **fields):
        known = [part.name for part in dataclasses.fields(cls)]
        for key in fields:
            if key not in known:
                raise TypeError(
                    unknown(f"Family has no field {shown(key)}", key, known[: known.index("name")], "fields")
                )
        return super().__new__(cls)

    def __post_init__(self):
        self._check_types()
        self._check_names()
        for part in dataclasses.fields(self):
            value = getattr(self, part.name)
            if isinstance(value, Mapping):
                object.__setattr__(self, part.name, frozen(value, f"its {part.name}"))
            elif isinstance(value, list):
                object.__setattr__(self, part.name, tuple(value))

    def _check_types(self) -> None:
        """Of the fields and of what is in them."""
        if not (isinstance(self.model, type) and issubclass(self.model, Model)):
            name = getattr(self.model, "__name__", shown(self.model))
            raise TypeError(f"its model is {name}, which is no skeleton; derive it from zoo.skeletons.model.Model")
        for name in ("variants", "defaults", "published", "counted", "cfg"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"its {name} is a {type(getattr(self, name)).__name__}; it must be a mapping")
        for name in ("rules", "tasks"):
            if not isinstance(getattr(self, name), (list, tuple)):
                raise TypeError(f"its {name} is a {type(getattr(self, name)).__name__}; it must be a list or a tuple")
        for variant, arguments in self.variants.items():
            if not isinstance(variant, str) or not variant.isidentifier():
                raise TypeError(
                    f"its variant {shown(variant)} has no name that Python could; use letters, digits and _"
                )
            if not isinstance(arguments, Mapping):
                raise TypeError(f"its variant {shown(variant)} is a {type(arguments).__name__}; write dict(dim=…, …)")
        for name, kind in (("published", Published), ("counted", Counted)):
            for row, figures in getattr(self, name).items():
                if not isinstance(figures, kind):
                    refused = f"its {name}[{shown(row)}] is a {type(figures).__name__}"
                    raise TypeError(f"{refused}; it must be a {kind.__name__}")
        for row, figures in self.published.items():
            place, size = figures.weights, figures.img_size
            if place is not None and not re.fullmatch(PLACES, str(place)):
                refused = f"its published[{shown(row)}] has weights={shown(place)}, which is no place of weights"
                raise ValueError(f"{refused}; write hf-hub:owner/name, hf-hub:owner/name/file or a URL")
            if size is not None and not (isinstance(size, int) and size > 0):
                refused = f"its published[{shown(row)}] has img_size={shown(size)}, which is no side of images"
                raise ValueError(f"{refused}; write a positive whole number, or None")
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"its rules hold a {type(rule).__name__}; make rules by rename, stack and drop")
        for task in self.tasks:
            if not isinstance(task, str):
                raise TypeError(f"its tasks hold a {type(task).__name__}; name them")
        if not isinstance(self.facts, Facts | None):
            raise TypeError(f"its facts are a {type(self.facts).__name__}; write Facts(use=…, not_for=…, …)")

    def _check_names(self) -> None:
        """Of arguments, variants and keys of the configuration."""
        known = self.model.argument_names()
        for where, arguments in {"defaults": self.defaults, **self.variants}.items():
            for key in arguments:
                if key not in known:
                    problem = f"its model has no argument {shown(key)}, which {where} sets"
                    raise ValueError(unknown(problem, key, known, "arguments"))
        for name in ("published", "counted"):
            for row in getattr(self, name):
                if (arch := str(row).split(".")[0]) not in self.variants:
                    problem = f"its {name} has no variant for {shown(row)}"
                    raise ValueError(unknown(problem, arch, self.variants, "variants"))
        check_cfg(self.cfg, "its cfg")

    def __reduce__(self):  # mappings that cannot be changed are not copied or pickled by themselves
        return _again, ({part.name: thawed(getattr(self, part.name)) for part in dataclasses.fields(self)},)

    def arguments(self, variant: str) -> dict[str, Any]:
        """The constructor's arguments of a variant, for the caller to keep: nothing in them is the family's own."""
        return thawed({**self.defaults, **self.variants[variant]})

    def derive(self, **changes: Any) -> "Family":
        """The family that is this one with changes.

        Args:
            changes: Fields. What `defaults` and `cfg` say is added to this family's, key by key; any other field stands
                in place of this family's. Of other `variants` nothing is published or counted but what is said here,
                and nothing is taken over of the `facts`.
        """
        for name in ("defaults", "cfg"):
            if isinstance(changes.get(name), Mapping):
                changes[name] = {**getattr(self, name), **changes[name]}
        if "variants" in changes:
            changes = {"published": {}, "counted": {}, "facts": None, **changes}
        own = {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}
        return Family(**{**own, "name": "", "module": _module_that_runs(), "about": "", **changes})


def _again(fields: dict[str, Any]) -> Family:
    """The family of these fields, for what copies and pickles."""
    return Family(**fields)
