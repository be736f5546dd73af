"""How a family is trained: a recipe to begin with, for a model and its input."""

from collections.abc import Sequence

from torch import nn

from zoo.skeletons.vectors import Stack

SCHEDULE = """\
train:
  duration: 100ep
  batch_size: 64
  eval_every: 5ep
  checkpoint_every: 5ep
  grad_clip: 1.0
optim:
  name: adamw
  lr: {lr}
  weight_decay: 0.05
schedule:
  name: cosine
  warmup: 5ep
expect:
  metric: {metric}
  status: untested
"""
PICTURES = """\
task:
  name: classify
  label_smoothing: 0.1
model:
  name: {arch}
  kwargs: {{{kwargs}}}  # as many classes as there are folders
data:
  name: image_folder
  root: pictures
  img_size: {side}
  in_chans: {channels}
{augmentation}"""
AUGMENTATION = """\
  auto_augment: rand-m9-mstd0.5
  re_prob: 0.25
"""
FORMULA = """\
task:
  name: regress
model:
  name: {arch}
  kwargs: {{in_chans: 2, num_classes: 1}}
data:
  name: formulas
  formula: exp_sine
"""


def recipe_of(arch: str, model: nn.Module, tasks: Sequence[str], classes: int = 10) -> str | None:
    """The text of a recipe to begin with: pictures in folders by class, or for layers of vectors a formula.

    Args:
        arch: The name of a model.
        model: It.
        tasks: What it is for, as `zoo.model_info` says.
        classes: Number of the folders.

    Returns:
        YAML; None where zoo has no data for such a model.
    """
    if isinstance(model, Stack) and "regression" in tasks:
        return FORMULA.format(arch=arch) + SCHEDULE.format(lr="1e-2", metric="test/rmse")
    if len(model.input_size) != 3 or model.input_size[0] not in (1, 3) or "classification" not in tasks:
        return None
    channels, height, width = model.input_size
    side = max(height, width)
    kwargs = f"num_classes: {classes}" + (f", img_size: {side}" if height != width else "")
    augmentation = AUGMENTATION if channels == 3 else ""
    data = PICTURES.format(arch=arch, kwargs=kwargs, side=side, channels=channels, augmentation=augmentation)
    return data + SCHEDULE.format(lr="1e-3", metric="test/top1")
