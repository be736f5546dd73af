"""Models from the Hub: what a repository's config.json names is fetched, and opened like a folder."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from zoo.hub.config import BYTES, CONFIG, read_config
from zoo.hub.open import open_model
from zoo.hub.timm_layout import is_timm_layout, open_timm_layout
from zoo.weights.converted import read_converted
from zoo.weights.fetch import HUB_FILES
from zoo.weights.repository import Download, Repository


def open_from_hub(
    repository: Repository, pretrained: bool = True, bounded: bool = True, overrides: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build the model of a repository on the Hub, one that zoo has saved or one in timm's layout, with its weights.

    Args:
        repository: Which, and where its files are kept.
        pretrained: Load the weights; if not, they are not fetched either.
        bounded: Refuse a repository that asks for more than its weights hold.
        overrides: Arguments in place of the saved ones.

    Raises:
        ValueError: A file cannot be fetched, is damaged, or says what zoo cannot take.
    """
    files: list[Download] = []
    arguments = (repository, pretrained, bounded, overrides or {}, files)
    try:
        return _open(*arguments)
    except ValueError as error:
        if not any(file.kept and file.damage() for file in files):
            raise
        told = error
    try:
        return _open(*arguments, again=True)
    except ValueError as error:
        raise ValueError(
            f"{told}. It was kept of {repository}, and fetching it again did not help ({error})"
        ) from error


def _open(
    repository: Repository,
    pretrained: bool,
    bounded: bool,
    overrides: Mapping[str, Any],
    files: list[Download],
    again: bool = False,
) -> nn.Module:
    """Fetch the config.json, and if they are wanted, the weights of the same commit; and open them.

    Args:
        repository, pretrained, bounded, overrides: As in `open_from_hub`.
        files: What was fetched is added here.
        again: Fetch what is kept too.
    """
    config = repository.download(CONFIG, again=again, most=BYTES)
    files.append(config)
    of_timm = is_timm_layout(config.path)
    if pretrained:
        names = HUB_FILES if of_timm else (read_config(config.path)["weights"],)
        commit = replace(repository, revision=config.path.parent.name)  # the client calls the folder so
        files.append(commit.download(*names, again=again))
    if not of_timm:
        return open_model(f"local-dir:{config.path.parent}", pretrained, bounded, **overrides)
    read = partial(read_converted, origin=str(repository), cache_dir=repository.cache_dir)
    return open_timm_layout(config.path, read if pretrained else None, bounded, overrides)
