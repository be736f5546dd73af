"""Recipes: one YAML file to a trained, measured and saved model.

    recipe = load_recipe("recipes/mixer_digits.yaml", ["train.duration=5ep"])
    metrics = Trainer(recipe, "runs/mixer_digits").run()

Needs the packages of `pip install 'zoo[train]'`.
"""

from zoo.training.evaluate import evaluate
from zoo.training.multitask import Classifier, Dense, MultiTask
from zoo.training.recipe.reading import RecipeError
from zoo.training.recipe.recipe import Recipe, dump_recipe, load_recipe
from zoo.training.segmenter import Pyramid, Segmenter
from zoo.training.trainer import Trainer

__all__ = [
    "Classifier",
    "Dense",
    "MultiTask",
    "Pyramid",
    "Recipe",
    "RecipeError",
    "Segmenter",
    "Trainer",
    "dump_recipe",
    "evaluate",
    "load_recipe",
]
