"""Building a model from its arguments: checked, built, loaded, resized, wrapped."""

from zoo.build.assemble import assemble

__all__ = ["assemble"]
