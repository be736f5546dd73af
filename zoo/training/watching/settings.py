"""The section `watch` of a recipe."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

from zoo.training.recipe.section import Section


@dataclass(frozen=True)
class Watching(Section):
    """Where the numbers of a run go beside metrics.jsonl; two recipes that differ in this alone are the same run."""

    # Trackers that get every record too; each is a package to be installed, and the first two write into the folder.
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    project: str = "zoo"  # to which wandb and trackio add the run
    name: str | None = None  # of the run in them; null: the name of its folder
    offline: bool = False  # wandb writes into the run's folder alone, for `wandb sync` at another time
    report: bool = True  # whether `zoo train` writes report.html at the end

    def check(self) -> None:
        """Check that the trackers can be imported; called before anything else is done.

        Raises:
            ValueError: One is not installed.
        """
        for name in self.trackers:
            if importlib.util.find_spec(name) is None:
                raise ValueError(
                    f"watch.trackers names {name}, which is not installed: pip install {name}, or pip install "
                    "'zoo[watch]' for all of them; or remove it there"
                )
