"""The sections of a recipe as dataclasses: those that are one thing, and those of which there are several kinds."""

import dataclasses
import functools
import warnings
from abc import ABC
from typing import Any, ClassVar, get_type_hints

from zoo.checks import check_type, shown
from zoo.discovery import modules_of, modules_outside


class Misfit(ValueError):
    """A value that does not go with another one; `key` is the field that is to be changed, dotted if it lies deeper."""

    def __init__(self, message: str, key: str = ""):
        super().__init__(message)
        self.key = key


class Section:
    """A dataclass of a recipe: wherever it is made, its values are checked against their annotations.

    Attributes:
        renamed: Keys that recipes had before, and where that is said now, as ``section.key``.
    """

    renamed: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            check_type(name, getattr(self, name), hint)


class OpenSection(Section, ABC):
    """A section of which there are several kinds, told apart by the key `name`, and anybody may add one.

    The base of the kinds is made as ``class Task(OpenSection, folder="zoo.training.tasks")``. A kind is a dataclass
    derived from it, with its ``name``. It is known by being there: in a module of that folder, in a module of a package
    that the entry-point group ``zoo`` names, or wherever else it was defined before a recipe asks for it.

    Raises:
        ValueError: The name is no text, or another class has it already.
    """

    name: ClassVar[str]
    folder: ClassVar[str]

    def __init_subclass__(cls, folder: str | None = None, **options):
        super().__init_subclass__(**options)
        if folder is not None:
            cls.folder, cls._kinds = folder, {}
        elif (name := vars(cls).get("name")) is not None:
            where = f"{cls.__module__}.{cls.__qualname__}"
            if not isinstance(name, str) or not name:
                raise ValueError(f"{where}: name is {shown(name)}; it must be a text, which recipes say as `name:`")
            known = cls._kinds.get(name, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(
                    f"{where}: the name {shown(name)} is taken by {known.__module__}.{known.__qualname__}; choose "
                    "another"
                )
            cls._kinds[name] = cls

    @classmethod
    def kinds(cls) -> dict[str, type["OpenSection"]]:
        """Every kind by name. Reads the folder, and the packages from outside, on first use."""
        _read(cls.folder)
        kinds = {}
        for name, kind in sorted(cls._kinds.items()):
            if "__dataclass_fields__" in vars(kind):
                kinds[name] = kind
            else:
                where = f"{kind.__module__}.{kind.__qualname__}"
                warnings.warn(f"{where} is left out: it is no dataclass; write @dataclass(frozen=True)", stacklevel=2)
        return kinds


def is_open(kind: Any) -> bool:
    """Whether an annotation is the base of the kinds of an open section."""
    return isinstance(kind, type) and "_kinds" in vars(kind)


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, with the ranges."""
    found = get_type_hints(cls, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def _read(folder: str) -> None:
    modules_of(folder)
    modules_outside()
