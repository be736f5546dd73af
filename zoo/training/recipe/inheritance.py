"""A recipe that says `base: other.yaml`: what it does not say itself, it has from that file, key by key.

The path is relative to the file that names it, and that file may have a base too. What is in both is the recipe's own,
but for sections, which are merged in their turn, so that a recipe has only what is its own. A section whose `name` is
another one than the base's replaces it whole, since its keys are those of another model, task or data set; `optim` and
`schedule` have the same keys by any name, and are merged. `{}` is a section without anything, also of the base's. Of
what a base expects by its own runs, a recipe has the metric alone: they were runs of other settings.
"""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import yaml

from zoo.checks import shown
from zoo.training.recipe.reading import TEXT, RecipeError, compose, in_words, place, read

KEY = "base"
OF_ANY_NAME = ("optim", "schedule")
FILES = 8  # one on the other


def with_base(node: yaml.Node, path: Path) -> yaml.Node:
    """The tree of a recipe, and below it what its base says.

    Args:
        node: The root of the tree, in which `base` is a key like the others.
        path: The file that it was read from.

    Raises:
        RecipeError: `base` is no path of another recipe; the message has file and line.
    """
    files = [path]
    trees, named = [], _take_base(node)
    trees.append(node if named is None else named[0])
    while named is not None:
        _, value = named
        path = _path_of(value, files)
        node = _read(path, value)
        named = _take_base(node)
        trees.append(_unmeasured(node if named is None else named[0]))
        files.append(path)
    *above, merged = trees
    for tree in reversed(above):
        merged = _merged(merged, tree)
    return merged


def _take_base(node: yaml.Node) -> tuple[yaml.Node, yaml.Node] | None:
    """The tree without its key `base`, and the value of that; None if it has no such key."""
    if not isinstance(node, yaml.MappingNode):
        return None
    found = [pair for pair in node.value if _key(pair) == KEY]
    if not found:
        return None
    if len(found) > 1:
        first, second = (key.start_mark for key, _ in found[:2])
        raise RecipeError(f"{place(second)}: {KEY}: given twice, first at {place(first)}")
    rest = [pair for pair in node.value if _key(pair) != KEY]
    return yaml.MappingNode(node.tag, rest, node.start_mark), found[0][1]


def _path_of(value: yaml.Node, files: list[Path]) -> Path:
    where = f"{place(value.start_mark)}: {KEY}"
    if not isinstance(value, yaml.ScalarNode) or value.tag != TEXT or not value.value:
        raise RecipeError(f"{where}: expected the path of another recipe, such as ../base.yaml, got {in_words(value)}")
    if PurePosixPath(value.value).is_absolute() or PureWindowsPath(value.value).anchor:
        raise RecipeError(f"{where}: {shown(value.value)} is absolute: write it as seen from {files[-1].parent}")
    path = files[-1].parent / value.value
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError) as error:  # the latter of a path that no file can have
        raise RecipeError(f"{where}: {shown(value.value)} cannot be read ({error}): name a YAML file") from None
    if real in map(os.path.realpath, files):
        raise RecipeError(f"{where}: {shown(value.value)} is {real}, which stands on this recipe itself: name another")
    if len(files) == FILES:
        raise RecipeError(f"{where}: more than {FILES} recipes one on the other; no recipe needs that")
    return path


def _read(path: Path, value: yaml.Node) -> yaml.Node:
    try:
        text = read(path)
    except FileNotFoundError:
        raise RecipeError(f"{place(value.start_mark)}: {KEY}: there is no recipe {path}: name a YAML file") from None
    except RecipeError as error:
        raise RecipeError(f"{place(value.start_mark)}: {KEY}: {error}") from None
    node = compose(text, str(path))
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{place(node.start_mark)}: expected a section of `key: value` lines, got {in_words(node)}")
    return node


def _merged(base: yaml.Node, node: yaml.Node, of_any_name: bool = False) -> yaml.Node:
    """What `node` says, and what `base` says beside it; neither of the trees is changed."""
    both_sections = isinstance(base, yaml.MappingNode) and isinstance(node, yaml.MappingNode)
    if not both_sections or base.tag != node.tag or not of_any_name and _is_another(base, node):
        return node
    own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    further = []  # what is given twice stays so, and is refused later
    for pair in node.value:
        if (key := _key(pair)) is None or key in own:
            further.append(pair)
        else:
            own[key] = pair
    pairs = []
    for pair in base.value:
        key_node, value = own.pop(key := _key(pair), (None, None))
        if key_node is None:
            pairs.append(pair)
            continue
        takes_away = isinstance(value, yaml.MappingNode) and not value.value
        pairs.append((key_node, value if takes_away else _merged(pair[1], value, key in OF_ANY_NAME)))
    return yaml.MappingNode(node.tag, [*pairs, *own.values(), *further], node.start_mark)


def _unmeasured(node: yaml.Node) -> yaml.Node:
    """The tree of a base: what came of its own runs is nothing that a recipe with other settings may expect."""
    if not isinstance(node, yaml.MappingNode):
        return node
    pairs = []
    for key, value in node.value:
        if key.value == "expect" and isinstance(value, yaml.MappingNode):
            said = {_key(pair): pair for pair in value.value}
            if "status" in said and said["status"][1].value == "reproduced":
                status = said["status"][0], yaml.ScalarNode(TEXT, "untested", *_marks(said["status"][1]))
                kept = [said[name] for name in ("metric", "published") if name in said]
                value = yaml.MappingNode(value.tag, [*kept, status], value.start_mark)
        pairs.append((key, value))
    return yaml.MappingNode(node.tag, pairs, node.start_mark)


def _marks(node: yaml.Node) -> tuple[yaml.Mark, yaml.Mark]:
    return node.start_mark, node.end_mark


def _is_another(base: yaml.MappingNode, node: yaml.MappingNode) -> bool:
    """Whether both sections have a `name`, and not the same."""
    names = [{_key(pair): pair[1].value for pair in each.value}.get("name") for each in (base, node)]
    return None not in names and names[0] != names[1]


def _key(pair: tuple[yaml.Node, yaml.Node]) -> str | None:
    return pair[0].value if isinstance(pair[0], yaml.ScalarNode) else None
