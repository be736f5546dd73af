"""Recipes: one YAML file to a trained, measured and saved model.

    recipe = load_recipe("recipes/mixer_digits.yaml", ["train.duration=5ep"])
    metrics = Trainer(recipe, "runs/mixer_digits").run()

Needs the packages of `pip install 'zoo[train]'`; a module with a data set or a task of one's own imports none of them.
"""

import importlib as _importlib

_PUBLIC = {
    "Classifier": "heads.classifier",
    "Dense": "heads.dense",
    "MultiTask": "models.multitask",
    "Pyramid": "models.segmenter",
    "Recipe": "recipe.recipe",
    "RecipeError": "recipe.reading",
    "Segmenter": "models.segmenter",
    "Trainer": "trainer",
    "dump_recipe": "recipe.recipe",
    "evaluate": "evaluation",
    "load_recipe": "recipe.recipe",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zoo.training' has no attribute {name!r}")
    return getattr(_importlib.import_module(f"zoo.training.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
