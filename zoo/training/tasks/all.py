"""All tasks."""

from zoo.training.tasks.base import Means, check_classes, check_images, check_per_pixel
from zoo.training.tasks.classify import Classify
from zoo.training.tasks.denoise import Denoise
from zoo.training.tasks.edges import Edges
from zoo.training.tasks.regress import Regress
from zoo.training.tasks.segment import Segment

Task = Classify | Denoise | Segment | Edges | Regress

__all__ = [
    "Classify",
    "Denoise",
    "Edges",
    "Means",
    "Regress",
    "Segment",
    "Task",
    "check_classes",
    "check_images",
    "check_per_pixel",
]
