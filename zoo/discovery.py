"""Parts are found by being there: in zoo's own folders, and in packages that name themselves in the entry-point group.

A package from outside says in its ``pyproject.toml``::

    [project.entry-points.zoo]
    mine = "my_package"

Then every module below ``my_package`` is read as those in zoo's own folders are: its blocks, families, data sets and
tasks are known by their names, wherever in it they stand.
"""

import functools
import importlib
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from types import ModuleType
from typing import Any

from zoo.checks import in_a_line

GROUP = "zoo"  # of entry points, whose values are names of packages or modules


def lazily(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose public names are imported when they are first asked for.

    Args:
        package: Its name.
        places: By public name, the module below the package that has it; empty for a package that is meant itself.
    """

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not places[name]:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(f"{package}.{places[name]}"), name)

    return __getattr__, lambda: sorted(places)


def modules_of(package: str) -> tuple[ModuleType, ...]:
    """A package and every module below it, or a module alone.

    One that cannot be imported is left out, with a warning that names it: what is wrong with one part must not take the
    others away.
    """
    names, modules = [package], []
    while names:
        name = names.pop(0)
        try:
            module = importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a file may raise when it is run, a script's exit too
            warnings.warn(f"{name} is left out: {in_a_line(error, package)}", stacklevel=2)
            continue
        modules.append(module)
        below = pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}.")
        names += [info.name for info in below if not info.name.endswith(".__main__")]
    return tuple(modules)


@functools.cache
def modules_outside() -> tuple[ModuleType, ...]:
    """Every module of the packages that entry points name."""
    entries = sorted({entry.value for entry in metadata.entry_points(group=GROUP)})
    return tuple(module for package in entries for module in modules_of(package))
