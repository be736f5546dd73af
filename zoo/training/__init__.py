"""Recipes: one YAML file to a trained, measured and saved model.

    recipe = load_recipe("recipes/mixer_digits.yaml", ["train.duration=5ep"])
    metrics = Trainer(recipe, "runs/mixer_digits").run()

Needs the packages of zoo's extra ``[train]``; a module with a data set or a task of one's own imports none of them.
"""

from zoo.discovery import lazily as _lazily

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


__getattr__, __dir__ = _lazily("zoo.training", _PUBLIC)
