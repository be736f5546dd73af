"""Families: the files of `zoo.models` read as data, each checked when it is found."""

import difflib
import functools
import sys
import traceback
import warnings
from collections.abc import Mapping
from types import ModuleType

from zoo.checks import in_a_line, shown, unknown
from zoo.discovery import modules_of, modules_outside
from zoo.family import Counted, Family, Published
from zoo.skeletons.model import Model
from zoo.weights import Rule
from zoo.weights.pretrained import check_cfg

# What a family's file says in upper case. A file with one of the first kind is a family's, and has all of them.
NEEDED = {"MODEL": type, "DEFAULTS": Mapping, "VARIANTS": Mapping, "PUBLISHED": Mapping, "RULES": (list, tuple)}
OPTIONAL = {"COUNTED": Mapping, "TASKS": (list, tuple), "CFG": Mapping}


@functools.lru_cache(maxsize=1)
def families() -> dict[str, Family]:
    """Every family by name: each module of `zoo.models` that says what a family's file has to say.

    A file that cannot be imported or read is left out, with a warning that names it: what is wrong with one family must
    not take the others away.
    """
    found, owners = {}, {}
    for module in (*modules_of("zoo.models"), *modules_outside()):
        name = module.__name__
        try:
            family = read_family(module)
            for variant in family.variants if family else ():
                if variant in owners:
                    raise ValueError(f"it names the variant {variant!r}, which {owners[variant]} has; give it another")
        except Exception as error:  # whatever its values may raise when they are looked at
            warnings.warn(f"{name} is left out: {what_is_wrong(error)}", stacklevel=2)
            continue
        if family is not None:
            found[family.name] = family
            owners |= dict.fromkeys(family.variants, name)
    return found


def what_is_wrong(error: Exception) -> str:
    """An error in one line; of what this file finds wrong, the message alone."""
    own = isinstance(error, ValueError) and traceback.extract_tb(error.__traceback__)[-1].filename == __file__
    return str(error) if own else in_a_line(error)


def read_family(module: ModuleType) -> Family | None:
    """A family's file as data, or None for a module that is no family's.

    Raises:
        ValueError: Something that a family's file needs is missing, misspelt or of another kind; the message says what.
    """
    names = [name for name in vars(module) if name.isupper()]
    if not set(NEEDED) & set(names):
        return None
    known = {**NEEDED, **OPTIONAL}
    for name in known:
        near = [n for n in difflib.get_close_matches(name, names, 3, 0.85) if n not in known]
        if name not in names and near:
            raise ValueError(f"it has no {name}, but {near[0]}; is that what is meant?")
    for name, kind in known.items():
        if name not in names and name in NEEDED:
            raise ValueError(f"it has no {name}; a family's file has {', '.join(NEEDED)}")
        if name in names and not isinstance(vars(module)[name], kind):
            raise ValueError(f"its {name} is a {type(vars(module)[name]).__name__}, which cannot be")
    about = (module.__doc__ or "").strip()
    if not about and sys.flags.optimize < 2:  # with -OO no module has a docstring
        raise ValueError("it has no header; write what it is, its paper, its code and its weights")
    if not issubclass(module.MODEL, Model):
        raise ValueError(
            f"its MODEL is {module.MODEL.__name__}, which is no skeleton; derive it from zoo.skeletons.model"
        )
    family = Family(
        name=module.__name__.rsplit(".", 1)[-1],
        module=module.__name__,
        model=module.MODEL,
        defaults=module.DEFAULTS,
        variants=module.VARIANTS,
        published=module.PUBLISHED,
        counted=getattr(module, "COUNTED", {}),
        rules=tuple(module.RULES),
        tasks=tuple(getattr(module, "TASKS", ("classification",))),
        about=about,
        cfg=getattr(module, "CFG", {}),
    )
    _check_entries(family)
    return family


def _check_entries(family: Family) -> None:
    """Check the entries of what a family's file says against each other and against its model."""
    takes = family.model.argument_hints()
    for where, arguments in {"DEFAULTS": family.defaults, **family.variants}.items():
        if not isinstance(arguments, Mapping):
            raise ValueError(f"its variant {where!r} is a {type(arguments).__name__}, and no mapping of arguments")
        for key in arguments:
            if key not in takes:
                raise ValueError(unknown(f"its model has no argument {key!r}, which {where} sets", key, takes))
    for what, rows, kind in (("PUBLISHED", family.published, Published), ("COUNTED", family.counted, Counted)):
        for name, row in rows.items():
            if name.split(".")[0] not in family.variants:
                arch = name.split(".")[0]
                raise ValueError(unknown(f"its {what} has no variant for {name!r}", arch, family.variants, "variants"))
            if not isinstance(row, kind):
                raise ValueError(f"its {what}[{name!r}] is a {type(row).__name__}; it must be a {kind.__name__}")
    for rule in family.rules:
        if not isinstance(rule, Rule):
            raise ValueError(f"its RULES hold a {type(rule).__name__}; make rules by rename, split, stack and drop")
    check_cfg(family.cfg, "its CFG")


def family_of(arch: str) -> Family:
    """The family of a variant.

    Raises:
        ValueError: There is no such variant.
    """
    known = {variant: family for family in families().values() for variant in family.variants}
    if arch not in known:
        names = [n for n in known if not n.endswith("_test")]
        word = arch.split("_")[0]
        kind = f"*{word}*" if word and any(word in name for name in names) else "*"
        raise ValueError(unknown(f"model {shown(arch)}", arch, names, count=3, see=f'zoo.list_models("{kind}")'))
    return known[arch]
