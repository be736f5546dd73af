"""Weights that were downloaded as something else than safetensors: read safely once, and kept as safetensors.

What is kept has the published keys. What the family's rules make of them depends on the model that is asked for (its
classes, its size of images), so they are applied when the weights are loaded, which costs next to nothing.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from zoo.storage.files import replacing, sha256_of
from zoo.weights.files import read_state_dict
from zoo.weights.repository import marked

FOLDER = "zoo-converted"  # in the folder of downloads


def read_converted(path: Path, origin: str, cache_dir: Path | str | None = None) -> dict[str, Tensor]:
    """The tensors of a file that was downloaded: of a pickle or of numpy's arrays, by way of safetensors.

    They are kept by the place that the file is from and by its own hash, so another file is converted anew. One that is
    damaged is made again. Where nothing can be written, the file itself is read each time.

    Args:
        path: The file.
        origin: Where it was downloaded from.
        cache_dir: Where downloads are kept; torch's folder by default.

    Raises:
        ValueError: The file is damaged, or holds what no weights are.
    """
    if path.suffix == ".safetensors":
        return read_state_dict(path)
    folder = Path(cache_dir or torch.hub.get_dir()) / FOLDER
    kept = folder / marked(f"{path.stem}.{sha256_of(path)[:32]}.safetensors", origin)
    with suppress(FileNotFoundError, ValueError):
        return read_state_dict(kept)
    state = read_state_dict(path)
    # It may be that the disk is full or read-only, or that safetensors knows no such numbers.
    with suppress(OSError, SafetensorError, ValueError, KeyError):
        _keep(state, kept, origin)
    return state


def _keep(state: Mapping[str, Tensor], path: Path, origin: str) -> None:
    # Tensors that share memory would be refused, and views would drag their whole storage along.
    plain = {key: value.contiguous().clone() for key, value in state.items()}
    with replacing(path, sum(value.nbytes for value in plain.values())) as new:
        save_file(plain, new, metadata={"format": "pt", "origin": origin})
