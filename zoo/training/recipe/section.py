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

    The base of the kinds is made as ``class Task(OpenSection, folder="zoo.training.tasks")``. A kind is a frozen
    dataclass derived from it, with its ``name``. It is known by being there: in a module of that folder, in a module of
    a package that the entry-point group ``zoo`` names, or wherever else it was defined before a recipe asks for it.
    """

    name: ClassVar[str]
    folder: ClassVar[str]

    def __init_subclass__(cls, folder: str | None = None, **options):
        super().__init_subclass__(**options)
        if folder is not None:
            cls.folder, cls._classes = folder, {}
        elif "name" in vars(cls):
            cls._classes[_full_name(cls)] = cls  # in the place of the same, if its module is read again

    @classmethod
    def kinds(cls) -> dict[str, type["OpenSection"]]:
        """Every kind by name. Reads the folder, and the packages from outside, on first use.

        A class that can be none is left out, with a warning that names it, and so is one whose name another has; of
        two, the one that zoo itself has is taken.
        """
        _read(cls.folder)
        kinds: dict[str, type[OpenSection]] = {}
        for where, kind in sorted(cls._classes.items(), key=lambda item: not item[0].startswith(f"{cls.folder}.")):
            if not isinstance(kind.name, str) or not kind.name:
                problem = f"its name is {shown(kind.name)}; it must be a text, which recipes say as `name:`"
            elif not ("__dataclass_params__" in vars(kind) and kind.__dataclass_params__.frozen):
                problem = "it is no frozen dataclass: set @dataclass(frozen=True) above it"
            elif kind.name in kinds:
                problem = f"the name {shown(kind.name)} is taken by {_full_name(kinds[kind.name])}; choose another"
            else:
                kinds[kind.name] = kind
                continue
            warnings.warn(f"{where} is left out: {problem}", stacklevel=2)
        return dict(sorted(kinds.items()))


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def is_open(kind: Any) -> bool:
    """Whether an annotation is the base of the kinds of an open section."""
    return isinstance(kind, type) and "_classes" in vars(kind)


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, with the ranges."""
    annotations = get_type_hints(cls, include_extras=True)
    return {field.name: annotations[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def _read(folder: str) -> None:
    modules_of(folder)
    modules_outside()
