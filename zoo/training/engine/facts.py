"""What a trained model says of the data that it was trained on, to whoever opens it."""

from typing import Any

from torch import nn

from zoo.training.data.base import DataSet
from zoo.training.data.splits import Split


def tell_of_data(model: nn.Module, data: DataSet, split: Split) -> None:
    """Write into a model's configuration how its images are prepared and what its classes are called.

    A model without a configuration of its own, such as a segmenter, is left as it is.
    """
    if not hasattr(model, "pretrained_cfg"):
        return
    facts: dict[str, Any] = dict(data.preparation())
    names = getattr(split, "class_names", ())  # a split from outside need not have them
    if names and len(names) == model.num_classes:
        facts |= {"label_names": tuple(names), "label_descriptions": None}
    model.pretrained_cfg = {**model.pretrained_cfg, **facts}
