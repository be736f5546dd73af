"""What a model learns from: the base of the data sets.

A data set is a dataclass: its `name` and fields are what a recipe's `data:` section may say, and `load()` gives its
splits. To add one, write the class into a file of this folder, or into a package of your own that the entry-point group
``zoo`` names; nothing else is edited::

    @dataclass(frozen=True)
    class Stripes(DataSet):
        name: ClassVar[str] = "stripes"
        noise: Annotated[float, Interval(0, 100)] = 0.1  # standard deviation

        def load(self) -> dict[str, Split]: ...

Whatever it draws at random follows from the fields alone: a run that goes on sees the data it saw before.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from zoo.training.data.splits import Split
from zoo.training.recipe.section import OpenSection


class DataSet(OpenSection, folder="zoo.training.data"):
    """Base of the data sets.

    Attributes:
        measured_on: The parts, of validation and test, that a recipe may expect a metric of.
    """

    measured_on: ClassVar[tuple[str, ...]] = ("validation", "test")

    @abstractmethod
    def load(self) -> dict[str, Split]:
        """The parts, as ``{"train": Split, "validation": Split, "test": Split}``; the last may be absent."""

    def with_input_of(self, model: Mapping[str, Any]) -> "DataSet":
        """The same with what is left open about its images taken from the arguments of a model."""
        return self

    def preparation(self) -> dict[str, Any]:
        """How images are prepared for the model, as timm's ``pretrained_cfg`` says it; empty where nothing is known.

        Keys: ``mean``, ``std``, ``crop_pct``, ``interpolation``, ``input_size``.
        """
        return {}
