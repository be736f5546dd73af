"""Weights in one file, or in several that an index names, as the Hub's client writes them."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from zoo.checks import printable, shown, some
from zoo.hub.config import NAME, WEIGHTS, read_json

INDEX = ".index.json"  # what an index is called, behind the name of the one file that would be there in its place


def write_weights(state: Mapping[str, Tensor], folder: Path, name: str, max_shard_size: int | str) -> str:
    """Write tensors as one file, or as several and their index if they are more than `max_shard_size`.

    Returns:
        The name of the file, or of the index.
    """
    split = split_torch_state_dict_into_shards(
        state, filename_pattern=name.replace(".safetensors", "{suffix}.safetensors"), max_shard_size=max_shard_size
    )
    written = name + INDEX if split.is_sharded else name
    for file, keys in split.filename_to_tensors.items():
        metadata = {"format": "pt"} | ({} if split.is_sharded else {"saved_as": name})
        save_file({key: state[key] for key in keys}, folder / file, metadata=metadata)
    if split.is_sharded:
        index = {"metadata": {**split.metadata, "saved_as": written}, "weight_map": split.tensor_to_filename}
        (folder / written).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return written


def read_weights(path: Path, read: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What `read` gives of a file of weights, or of all that an index names.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: The index is none, or a file holds other tensors than it says.
    """
    if not path.name.endswith(INDEX):
        return dict(read(path))
    state = {}
    for name, keys in _read_index(path).items():
        found = read(path.parent / name)
        if wrong := sorted(keys.symmetric_difference(found)):
            raise ValueError(
                f"{printable(path)}: {some(wrong, 4)} of {name} are in one of the two alone; they are not of one save"
            )
        state |= found
    return state


def files_of(path: Path) -> list[Path]:
    """The files that tensors are in: a file of weights itself, or what an index names."""
    return [path.parent / name for name in _read_index(path)] if path.name.endswith(INDEX) else [path]


def shards_of(path: Path) -> list[str]:
    """Names of the files beside an index that it names; none for what is no index, or a damaged one."""
    with suppress(ValueError, FileNotFoundError):
        return list(_read_index(path)) if path.name.endswith(INDEX) else []
    return []


def _read_index(path: Path) -> dict[str, set[str]]:
    """By name of each file, the keys that an index says are in it."""
    index, where = read_json(path), printable(path)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{where} is no index of weights: it must have a weight_map of keys to the files they are in")
    files: dict[str, set[str]] = {}
    for key, name in places.items():
        if not isinstance(name, str) or not re.fullmatch(WEIGHTS, name, re.ASCII) or len(name) > NAME:
            raise ValueError(
                f"{where}: {shown(key)} is said to be in {shown(name)}, which is no .safetensors file here"
            )
        files.setdefault(name, set()).add(key)
    return files
