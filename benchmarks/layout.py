"""How the package is laid out, as numbers: `python benchmarks/layout.py`.

It prints the lines of each room, the longest files, and the share of the lines that only hand things on: signatures,
and arguments that are passed under their own name. `tests/test_layout.py` holds the package to its limits, and its
imports to one direction. With a name, `python benchmarks/layout.py CONTRIBUTING.md`, it prints that page with its table
of counts written anew.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "zoo"

# Each room may import those after it. The package's own first file, which loads its public names when they are asked
# for, stands above them all.
ROOMS = (
    "zoo",
    *("cli", "training", "tools", "bench", "export", "costs", "timm_bridge", "create", "hub", "build", "registry"),
    *("models", "family", "skeletons", "blocks", "slots", "weights", "storage", "discovery", "checks", "version"),
)


@dataclass(frozen=True)
class Import:
    """One import of a module of zoo by another."""

    source: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}, imports {self.target}"


@cache
def modules() -> dict[str, Path]:
    """The file of every module, by its dotted name; a package's is its `__init__.py`."""
    files = {path.relative_to(ROOT).with_suffix("").parts: path for path in sorted(PACKAGE.rglob("*.py"))}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for parts, path in files.items()}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text("utf-8"))


def room(name: str) -> str:
    """The room of a module: the folder or file of zoo/ in which it stands.

    What ``python -m`` runs is a command wherever its file stands, and no module imports it.
    """
    if name.endswith(".__main__"):
        return "cli"
    return name.split(".")[1] if "." in name else name


@cache
def public_names() -> dict[str, str]:
    """The module behind each public name of the package, which its `__init__` loads when it is asked for."""
    for node in tree("zoo").body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return {name: f"zoo.{module or name}" for name, module in ast.literal_eval(node.value).items()}
    raise ValueError("zoo/__init__.py has no table of its public names")


def imports(name: str) -> Iterator[Import]:
    """The imports of zoo's modules in one module, those within functions too.

    ``from zoo.a import b`` is an import of ``zoo.a.b`` where that is a module, and of ``zoo.a`` elsewhere.
    ``import zoo`` is one of the modules behind the public names that the file then reads (``zoo.create_model``).
    """
    known = modules()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "zoo":
                    yield from _of_the_package(name, node.lineno)
                elif alias.name.startswith("zoo."):
                    yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{name}, line {node.lineno}: an import by dots; write it out, from zoo down")
            if (node.module or "").split(".")[0] == "zoo":
                for alias in node.names:
                    below = f"{node.module}.{alias.name}"
                    behind = public_names().get(alias.name) if node.module == "zoo" else None
                    yield Import(name, below if below in known else behind or node.module, node.lineno)
    if name == "zoo":
        yield from (Import(name, module, 1) for module in set(public_names().values()))


def _of_the_package(name: str, line: int) -> Iterator[Import]:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "zoo":
            target = public_names().get(node.attr) or f"zoo.{node.attr}"
            yield Import(name, target if target in modules() else "zoo", line)


def circles() -> list[list[str]]:
    """Groups of modules each of which imports, by way of others, itself."""
    below = {name: {found.target for found in imports(name)} - {name} for name in modules()}
    order, lowest, waiting, groups = {}, {}, [], []

    def visit(name: str) -> None:  # Tarjan's algorithm
        order[name] = lowest[name] = len(order)
        waiting.append(name)
        for other in sorted(below[name]):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in waiting:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            start = waiting.index(name)
            if len(waiting) - start > 1:
                groups.append(sorted(waiting[start:]))
            del waiting[start:]

    for name in below:
        if name not in order:
            visit(name)
    return groups


def lines(name: str) -> int:
    return len(modules()[name].read_text("utf-8").splitlines())


def signature_lines(name: str) -> int:
    """Lines from a ``def`` to the first statement of its body."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return sum(node.body[0].lineno - node.lineno for node in ast.walk(tree(name)) if isinstance(node, functions))


def hand_through_lines(name: str) -> int:
    """Lines on which a call passes a variable under its own name: ``bias=bias``."""
    keywords = (word for node in ast.walk(tree(name)) if isinstance(node, ast.Call) for word in node.keywords)
    return len(
        {word.value.lineno for word in keywords if isinstance(word.value, ast.Name) and word.value.id == word.arg}
    )


def share_of_handing_on() -> float:
    """The share of the package's lines that are signatures or hand-through."""
    handing = sum(signature_lines(name) + hand_through_lines(name) for name in modules())
    return handing / sum(map(lines, modules()))


def below(package: str) -> list[str]:
    """The modules of a package, itself included."""
    return [name for name in modules() if name == package or name.startswith(f"{package}.")]


def count_table() -> str:
    """The rooms with their files and lines, and what the limits are on."""
    everything = sum(map(lines, modules()))
    rows = ["| room | files | lines | share |", "|---|---|---|---|"]
    for part in ROOMS[1:]:
        names = [name for name in modules() if room(name) == part]
        count = sum(map(lines, names))
        rows.append(f"| `{part}` | {len(names)} | {count:,} | {count / everything:.1%} |")
    rows.append(f"| all | {len(modules())} | {everything:,} | |")
    longest, channel = max(modules(), key=lines), sum(map(lines, below("zoo.blocks.channel")))
    return "\n".join(rows) + (
        f"\n\nThe longest file, `{longest}`, has {lines(longest)} lines (limit 400); `blocks/channel` has {channel} "
        f"(limit\n1,000); signatures and hand-through are {share_of_handing_on():.1%} of all lines (limit 8 %)."
    )


def main() -> None:
    if sys.argv[1:]:
        from zoo.tools.overview import with_tables

        print(with_tables(Path(sys.argv[1]).read_text("utf-8"), {"counts": count_table()}), end="")
        return
    everything = sum(map(lines, modules()))
    print(f"{everything:,} lines in {len(modules())} files\n")
    for part in ROOMS:
        names = [name for name in modules() if room(name) == part]
        count = sum(map(lines, names))
        print(f"{part:12} {len(names):4} files {count:7,} lines {count / everything:7.1%}")
    print(f"\nblocks/channel: {sum(map(lines, below('zoo.blocks.channel'))):,} lines")
    print("longest files:", ", ".join(f"{name} {lines(name)}" for name in sorted(modules(), key=lines)[:-6:-1]))
    signatures, handed = sum(map(signature_lines, modules())), sum(map(hand_through_lines, modules()))
    print(f"signatures: {signatures:,} lines; hand-through: {handed:,}; together {share_of_handing_on():.2%}")
    for name in sorted(modules(), key=lambda name: -signature_lines(name) - hand_through_lines(name))[:10]:
        print(f"    {signature_lines(name):4} + {hand_through_lines(name):3} of {lines(name):4}  {name}")
    print("circles:", circles() or "none")


if __name__ == "__main__":
    main()
