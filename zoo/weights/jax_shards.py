"""Reading the checkpoints of google-research/vmoe: an index that says where the parts of each array lie, and these.

All of them are msgpack with types of its authors' own, which hold plain numbers. What was not saved as parameters, such
as the state of an optimizer, is left out.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.checks import printable, some
from zoo.weights.files import reading, weight_file

INFO = 8  # the number of the type that says what an array is
KINDS = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64")}
NUMBERED = "20220622"  # from this version on arrays have numbers in the order of their keys


def read_jax_shards(index: Path) -> dict[str, Tensor]:
    """The parameters of a checkpoint: of ``name.index``, and beside it ``name.data-00000-of-00008`` and so on.

    Args:
        index: The file of the index.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is damaged, or something else; an array is not whole; or msgpack is not installed.
    """
    said = _unpacked(weight_file(index))
    with reading(index, "index of a checkpoint"):
        tree, count = said["index"], int(said["shard_count"])
        arrays = dict(enumerate(_leaves(tree)))
        if said.get("version") != NUMBERED and "params" in tree and len(tree) > 1:
            raise ValueError(
                "it is of a version before 2022-06-22 that holds more than parameters, in an unknown order"
            )
        wanted = {
            number: key for number, (key, _) in arrays.items() if "params" not in tree or key.startswith("params/")
        }
        sizes = {number: _info(arrays[number][1]) for number in wanted}
    parts: dict[int, list] = {number: [] for number in wanted}
    for shard in range(count):
        path = index.with_name(f"{index.name.removesuffix('.index')}.data-{shard:05d}-of-{count:05d}")
        content = _unpacked(weight_file(path))
        with reading(path, "part of a checkpoint"):
            for number in wanted:
                for pieces, place in content.get(str(number), []):
                    parts[number].append((torch.cat([_tensor(piece.data) for piece in pieces]), _slices(place.data)))
    return {key: _whole(key, index, sizes[number], parts[number]) for number, key in wanted.items()}


def _unpacked(path: Path) -> Any:
    try:
        import msgpack
    except ImportError as error:
        raise ValueError(f"to read {printable(path)} takes msgpack; pip install 'zoo[convert]'") from error
    with reading(path, "file of a checkpoint of JAX"):
        content = msgpack.unpackb(path.read_bytes(), strict_map_key=False)
        if not isinstance(content, Mapping):
            raise ValueError("it holds no mapping")
        return content


def _inner(data: bytes) -> Any:
    import msgpack

    return msgpack.unpackb(data, raw=True)


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of mappings in each other, in the order of their keys, as JAX has it."""
    for key in sorted(tree):
        if isinstance(tree[key], Mapping):
            yield from _leaves(tree[key], f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", tree[key]


def _info(leaf: Any) -> tuple[int, ...]:
    """The sizes of an array."""
    if leaf.code != INFO:
        raise ValueError(f"an entry is of the type {leaf.code}, and must be of {INFO}")
    shape, *_ = _inner(_inner(leaf.data)[0])
    return tuple(map(int, shape))


def _tensor(data: bytes) -> Tensor:
    shape, kind, values = _inner(data)
    dtype = KINDS[kind.decode()]
    return torch.frombuffer(bytearray(values), dtype=dtype).reshape(tuple(shape)).flatten()


def _slices(data: bytes) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop, _ in map(_inner, _inner(data)))


def _whole(key: str, index: Path, size: tuple[int, ...], parts: list[tuple[Tensor, tuple[slice, ...]]]) -> Tensor:
    """An array, of its parts.

    Raises:
        ValueError: They do not fill it.
    """
    held, wanted = sum(part.numel() for part, _ in parts), torch.Size(size).numel()
    told = f"{printable(index)}: the parts of {some([key])} hold {held} numbers of its {wanted}"
    if held != wanted:  # looked at before anything is allocated
        raise ValueError(f"{told}; fetch the files again")
    whole = torch.empty(size, dtype=parts[0][0].dtype if parts else torch.float32)
    filled = torch.zeros(size, dtype=torch.bool)
    with reading(index, "index of the parts beside it"):
        for part, place in parts:
            whole[place] = part.reshape(whole[place].shape)
            filled[place] = True
    if not filled.all():
        raise ValueError(f"{told}, some of them twice; fetch the files again")
    return whole


def is_index(path: Path) -> bool:
    """Whether a file is called as such an index."""
    return path.suffix == ".index"


def is_part(path: Path) -> bool:
    """Whether a file is called as one of the parts of such a checkpoint."""
    return re.search(r"\.data-\d{5}-of-\d{5}$", path.name) is not None
