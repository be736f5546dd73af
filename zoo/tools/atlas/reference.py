"""The pages of the API: what mkdocstrings is asked to show, found in the package's public names and its registries."""

import ast
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from torch import nn

from zoo.slots.table import KINDS, blocks_of

# Title of the page, and the package whose public names it has.
PACKAGES = {"Models": "zoo", "Costs": "zoo.costs", "Speed": "zoo.bench", "Training": "zoo.training"}
TOOLS = {"Tools of KANs": "zoo.tools.kan", "Tools of mixtures of experts": "zoo.tools.moe"}


def pages() -> dict[str, str]:
    """Title and Markdown of each page of the API."""
    written = {title: _page(title, _public(package)) for title, package in PACKAGES.items()}
    written |= {title: _page(title, _functions(package)) for title, package in TOOLS.items()}
    return {**written, **{f"Blocks: {kind}": _page(f"Blocks: {kind}", blocks_of(kind).items()) for kind in KINDS}}


def _page(title: str, entries: Iterable[tuple[str, Any]]) -> str:
    lines = [f"# {title}", ""]
    for name, value in entries:
        if _is_written_out(value):
            lines += [f"::: {value.__module__}.{value.__qualname__}", "    options:", f"      heading: {name}"]
            lines += [f"      toc_label: {name}"]
            if isinstance(value, type):  # the methods of a module are torch's, and its types stand in words below
                is_module = issubclass(value, nn.Module)
                lines += (
                    ["      show_signature: false"] if is_module else ["      members: null", '      filters: ["!^_"]']
                )
            lines.append("")
        else:
            lines += [f"## {name}", "", f"`{value.__module__}.{value.__qualname__}`", ""]
    return "\n".join(lines)


def _public(package: str) -> Iterator[tuple[str, Any]]:
    """The public names of a package that are functions or classes."""
    module = importlib.import_module(package)
    for name in sorted(module.__all__):
        if hasattr(value := getattr(module, name), "__qualname__"):
            yield f"{package}.{name}", value


def _functions(package: str) -> Iterator[tuple[str, Any]]:
    """The public functions and classes of the modules in a package."""
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == found.name and hasattr(value, "__qualname__")
            if own and not name.startswith("_") and inspect.getdoc(value):
                yield f"{found.name}.{name}", value


def _is_written_out(value: Any) -> bool:
    """Whether a definition stands in zoo's own source, where mkdocstrings finds it by that name."""
    module = inspect.getmodule(value)
    if module is None or not module.__name__.startswith("zoo."):
        return False
    return value.__qualname__ in _definitions(module)


@functools.cache
def _definitions(module: ModuleType) -> set[str]:
    body = ast.parse(inspect.getsource(module)).body
    return {node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
