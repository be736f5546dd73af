"""Where a model's weights come from: their name, how they are read, and what they were made for, as one object."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from timm.models import PretrainedCfg

from zoo.weights.fetch import fetch_state_dict, origin_of
from zoo.weights.files import read_state_dict
from zoo.weights.rules import Rule, Rules, StateDict


@dataclass(frozen=True)
class WeightSource:
    """Weights that a model may be given.

    Attributes:
        name: What errors call them: a path, an address or a repository.
        read: Reads the tensors. It is called when there is a model that they go into, and not before.
        rules: From their keys to zoo's; none for what zoo has saved, whose keys are zoo's own.
        classes: Number of classes that they are said to have; None if it is the model's.
        chans: Number of input channels that they are said to have; None if it is the model's.
    """

    name: str
    read: Callable[[], StateDict]
    rules: tuple[Rule, ...] = ()
    classes: int | None = None
    chans: int | None = None


def published_weights(
    cfg: PretrainedCfg, model_name: str, rules: Rules, cache_dir: Path | str | None = None
) -> WeightSource:
    """The weights that a pretrained configuration points to, in their authors' keys.

    Args:
        cfg: The configuration.
        model_name: For error messages.
        rules: The family's.
        cache_dir: Where downloads are kept.

    Raises:
        ValueError: It points to none.
    """
    places = cfg.to_dict()
    return WeightSource(
        name=origin_of(places, model_name),
        read=partial(fetch_state_dict, places, model_name, cache_dir),
        rules=tuple(rules),
        classes=cfg.num_classes,
        chans=cfg.input_size[0],
    )


def weights_in_file(path: Path | str, rules: Rules, chans: int | None = None) -> WeightSource:
    """The weights in a file, in zoo's keys or in the published ones, of a model with as many classes as it is for."""
    return WeightSource(str(path), partial(read_state_dict, path), tuple(rules), chans=chans)
