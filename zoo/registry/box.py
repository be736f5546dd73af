"""The box: small trained models that come with zoo, a file for a variant in the folder `box` beside its family's file.

They are found by being there, so that a family brings its own, also one from outside. `recipes/box.py` writes them.
"""

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from zoo.checks import check_type, printable
from zoo.family import Family
from zoo.registry.discovery import family_of
from zoo.weights.pretrained import check_cfg

FOLDER = "box"  # beside a family's file
PLACE = "box"  # what an index has as the place of such weights
FACTS = "boxed"  # the key of what is said in the head of a file


@dataclass(frozen=True)
class Boxed:
    """A trained model in the box, as its file says.

    Attributes:
        file: Its weights.
        recipe: The recipe that trained it, as seen from `recipes/`, such as ``digits/vit.yaml``.
        settings: All that the recipe said, as YAML.
        seed: The seed of that training.
        metric: What was measured of these very weights, such as ``test/top1``.
        value: What that came to.
        parameters: How many the model has.
        cfg: Keys of its pretrained configuration that came of the training: how inputs are prepared, names of classes,
            the licence.
    """

    file: Path
    recipe: str
    settings: str
    seed: int
    metric: str
    value: float
    parameters: int
    cfg: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4g} (recipes/{self.recipe}, seed {self.seed})"


def boxed(name: str) -> Boxed | None:
    """The trained model of a variant that comes with zoo, for ``pretrained=True`` without a network; None without one.

    Example:
        >>> boxed("vit_digits").metric
        'test/top1'

    Args:
        name: The variant.

    Raises:
        ValueError: There is no such variant.
        TypeError: The name is no string.
    """
    check_type("name", name, str)
    return boxed_of(family_of(name), name)


def boxed_of(family: Family, arch: str) -> Boxed | None:
    """The same for a variant of this family, which need not have been discovered.

    A file that cannot be read is left out, with a warning: one model must not take the others away.
    """
    file = file_of(family, arch)
    if file is None or not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            facts = json.loads(opened.metadata()[FACTS])
        check_cfg(facts["cfg"], "its cfg")
        facts["cfg"] = {key: tuple(v) if isinstance(v, list) else v for key, v in facts["cfg"].items()}  # as timm's
        return Boxed(file, **facts)
    except Exception as error:  # whatever a damaged file may lead to
        reason = f"{type(error).__name__}: {printable(error, 200)}"
        warnings.warn(f"{printable(file)} is left out ({reason}); install zoo again", stacklevel=2)
        return None


def file_of(family: Family, arch: str) -> Path | None:
    """Where the weights of a variant are if they come with zoo; None for a family that has no file."""
    module = getattr(sys.modules.get(family.module), "__file__", None)
    return None if module is None else Path(module).parent / FOLDER / f"{arch}.safetensors"
