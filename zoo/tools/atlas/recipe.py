"""How a family is trained: a recipe that works as it stands."""

from collections.abc import Mapping
from typing import Any

SCHEDULE = """\
train: {{duration: 100ep, batch_size: 64, eval_every: 5ep, checkpoint_every: 5ep, grad_clip: 1.0}}
optim: {{name: adamw, lr: {lr}, weight_decay: 0.05}}
schedule: {{name: cosine, warmup: 5ep}}
expect: {{metric: {metric}, status: untested}}
"""
PICTURES = """\
task: {{name: classify, label_smoothing: 0.1}}
model: {{name: {arch}}}
data: {{name: image_folder, root: pictures, img_size: {size}, auto_augment: rand-m9-mstd0.5, re_prob: 0.25}}
"""
FORMULA = """\
task: {{name: regress}}
model: {{name: {arch}, kwargs: {{in_chans: 2, num_classes: 1}}}}
data: {{name: formulas, formula: exp_sine}}
"""


def recipe_of(arch: str, entry: Mapping[str, Any]) -> str:
    """The text of a recipe to begin with: pictures in folders by class, or for a model of vectors a formula.

    Args:
        arch: A model.
        entry: What `zoo.tools.index.known` has of it.
    """
    size = entry["configurations"][0]["input_size"]
    if len(size) == 1:
        return FORMULA.format(arch=arch) + SCHEDULE.format(lr="1e-2", metric="test/rmse")
    return PICTURES.format(arch=arch, size=size[-1]) + SCHEDULE.format(lr="1e-3", metric="test/top1")
