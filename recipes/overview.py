"""All recipes in a table, recipes/README.md, written from the recipes themselves.

`python recipes/overview.py` prints it; `make card` writes it.
"""

import ast
from pathlib import Path

from zoo.training import load_recipe
from zoo.training.recipe.recipe import Recipe

FOLDER = Path(__file__).parent
HEADER = """\
# Recipes

Written by `make card` from the recipes; do not edit it by hand. What a recipe may say is in
[docs/recipe.md](../docs/recipe.md).

A number was measured by runs, whose note says of which seeds, and has a tolerance for others; one that is only
published is said to be so, and its recipe is untested here. `zoo train RECIPE` trains one into `runs/`, `zoo train
RECIPE --smoke` tries it in seconds with the least model of its family and pictures of noise, `key.sub=value` changes a
value. A recipe that begins with `base: other.yaml` has from there what it does not say itself: what several have in
common is in `bases/`.

Pictures of your own, in a folder a class, take the place of a recipe's by two lines of a recipe of your own (here one
that lies beside `recipes/`); their classes are counted, and they are brought to the size and the channels that the
model takes:

```yaml
base: recipes/digits/mixer.yaml
data: {name: image_folder, root: photographs}
```
"""
NOT_RECIPES = ("bases", "examples")  # folders
COLUMNS = ("recipe", "model", "data", "metric", "expected", "status", "time", "command")
NOTES = {
    "digits": "By `python recipes/run_digits.py`; [digits/README.md](digits/README.md) has each of the three seeds.",
    "imagenet": "Of six families no training on ImageNet-1K is published, or not as a whole: gMixer (a tag of timm's\n"
    "alone), Sparse-MLP, Hourglass, S-ConvKAN, M3ViT (dense tasks), SwinV2-MoE (ImageNet-22K).",
}
TITLES = {".": "Recipes in this folder", "digits": "Every family on digits", "imagenet": "ImageNet-1K, as published"}


def page() -> str:
    """The whole text of recipes/README.md."""
    parts = [HEADER]
    for folder in folders():
        parts.append(f"\n## {TITLES.get(folder, f'Recipes in {folder}')}\n")
        if folder in NOTES:
            parts.append(NOTES[folder] + "\n")
        lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        lines += [row(path) for path in recipes(folder)]
        parts.append("\n".join(lines) + "\n")
    parts.append("\n## Scripts\n")
    parts.append("\n".join(f"- `python {place(path)}`: {about(path)}" for path in scripts()) + "\n")
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def folders() -> list[str]:
    """The folders that have recipes, from this one on."""
    found = {path.parent.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml")}
    return sorted(folder for folder in found if folder.split("/")[0] not in NOT_RECIPES)


def recipes(folder: str) -> list[Path]:
    """The recipes in one folder."""
    return sorted((FOLDER / folder).glob("*.yaml"))


def scripts() -> list[Path]:
    """The programs beside the recipes."""
    found = sorted(path for path in FOLDER.rglob("*.py") if path.name != "__init__.py")
    return [path for path in found if path.relative_to(FOLDER).parts[0] != "examples" and runs(path)]


def runs(path: Path) -> bool:
    """Whether a module is a program."""
    return 'if __name__ == "__main__":' in path.read_text("utf-8")


def place(path: Path) -> str:
    """The path as seen from the folder of the repository."""
    return path.relative_to(FOLDER.parent).as_posix()


def about(path: Path) -> str:
    """The first sentence of a program's docstring, without the command that it may begin with."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))).partition("\n\n")[0]
    return " ".join(text.split()).rstrip(":")


def row(path: Path) -> str:
    """The line of one recipe."""
    recipe = load_recipe(path)
    data = dict.fromkeys(objective.data.name for objective in recipe.objectives.values())
    cells = (
        f"[{path.stem}]({path.relative_to(FOLDER).as_posix()})",
        f"`{recipe.model.name}`",
        ", ".join(data),
        recipe.expect.metric,
        expected(recipe),
        recipe.expect.status,
        recipe.expect.time or "",
        f"`zoo train {place(path)}`",
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def expected(recipe: Recipe) -> str:
    """What a run gave; or what is published, and said to be no more."""
    expect = recipe.expect
    if expect.value is not None:
        return f"{expect.value:g} ± {expect.tolerance:g}"
    return "" if expect.published is None else f"published: {expect.published:g}"


if __name__ == "__main__":
    print(page(), end="")
