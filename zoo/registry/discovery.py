"""Families: the files of `zoo.models`, and of packages from outside, that have a `Family` as their ``FAMILY``."""

import dataclasses
import difflib
import functools
import sys
import warnings
from collections.abc import Mapping
from types import MappingProxyType, ModuleType

from zoo.checks import in_a_line, shown, unknown
from zoo.discovery import modules_of, modules_outside
from zoo.family import Family

NAME = "FAMILY"  # the attribute that makes a module a family's file


@functools.cache  # what a file finds that asks while it is read itself is replaced by the whole
def families() -> Mapping[str, Family]:
    """Every family by name, in alphabetical order: those of `zoo.models`, and of packages from outside.

    A file that cannot be imported or read is left out, with a warning that names it: what is wrong with one family must
    not take the others away.
    """
    named, owners = {}, {}
    modules = [*modules_of("zoo.models"), *modules_outside()]
    own = sys.modules["zoo.models"].__path__[0]  # zoo's own files first, so that a name stays with its first owner
    for module in sorted(modules, key=lambda module: not (getattr(module, "__file__", None) or "").startswith(own)):
        name = module.__name__
        try:
            family = read_family(module)
            if family is not None and family.name in named:
                raise ValueError(f"its name is that of {named[family.name].module}; give the file another")
            for variant in family.variants if family else ():
                if variant in owners:
                    raise ValueError(f"it names the variant {variant!r}, which {owners[variant]} has; give it another")
        except ValueError as error:
            warnings.warn(f"{name} is left out: {error}", stacklevel=2)
            continue
        except Exception as error:  # whatever a module's attributes may raise when they are looked at
            warnings.warn(f"{name} is left out: {in_a_line(error)}", stacklevel=2)
            continue
        if family is not None:
            named[family.name] = family
            owners |= dict.fromkeys(family.variants, name)
    return MappingProxyType(dict(sorted(named.items())))


def read_family(module: ModuleType) -> Family | None:
    """The family of a file, with the name and the header that it has there, or None for a module that is no family's.

    Raises:
        ValueError: What the module has is no family or has no header, or its name is misspelt; the message says which.
    """
    family = vars(module).get(NAME)
    if family is None:
        if near := difflib.get_close_matches(NAME, [name for name in vars(module) if name.isupper()], 1, 0.85):
            raise ValueError(f"it has no {NAME}, but {near[0]}; is that what is meant?")
        return None
    if not isinstance(family, Family):
        raise ValueError(f"its {NAME} is a {type(family).__name__}; write {NAME} = Family(model=…, variants=…)")
    maker = sys.modules.get(family.module)
    if maker is not module and getattr(maker, NAME, None) is family:
        return None  # imported from the file whose family it is
    about = (module.__doc__ or "").strip()
    if not about and sys.flags.optimize < 2:  # with -OO no module has a docstring
        raise ValueError("it has no header; write what it is, its paper, its code and its weights")
    name = module.__name__.rsplit(".", 1)[-1]
    return dataclasses.replace(family, name=name, module=module.__name__, about=about)


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
