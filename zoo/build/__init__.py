"""Building a model from its arguments: checked, built, loaded, resized, wrapped."""

from zoo.build.assemble import assemble
from zoo.build.request import Variant

__all__ = ["Variant", "assemble"]
