"""Reading weight files, which are input: what is damaged, hostile or no weights is refused by name."""

import argparse
import contextlib
import mmap
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import NoReturn

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from zoo.checks import printable, shown
from zoo.storage.files import is_file
from zoo.storage.locks import Turns

# Under which a checkpoint may hold its weights. Averaged ones go first, as in timm: they are the ones to evaluate.
HOLDERS = ("state_dict_ema", "model_ema", "state_dict", "model")

# What a file says it holds may be that many times its own size, for what compresses well; and always this many bytes.
GROWTH, ALWAYS = 50, 2**28

_NAMESPACES = Turns()


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Read tensors from a ``.safetensors`` or ``.npz`` file, or from a ``.pth`` one without running anything in it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, corrupt, contains code, holds no tensors or those of a kind that no model
            has (sparse, quantised, nested, without values), or says that it holds far more than it can.
    """
    path = weight_file(path)
    read = {".safetensors": _read_safetensors, ".npz": _read_numpy}.get(path.suffix, _read_torch)
    state = take_state_dict(read(path), printable(path))
    if not _fits(path, said := sum(value.numel() * value.element_size() for value in state.values())):
        _refuse_growth(path, said)  # one number stands for many
    return state


def read_shapes(path: Path | str) -> tuple[dict[str, Tensor], int]:
    """What the header of a ``.safetensors`` file says: tensors on the meta device, and their size in bytes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not whole.
    """
    path = weight_file(path)
    with reading(path, "safetensors file"), safe_open(path, "pt") as file:
        shapes = {key: torch.empty(file.get_slice(key).get_shape(), device="meta") for key in file.keys()}  # noqa: SIM118
    return shapes, path.stat().st_size


def weight_file(path: Path | str) -> Path:
    """The path, if a file is there; a name that no file can have is none."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"a weight file is given as {shown(path)}, a {type(path).__name__}; give its path")
    path = Path(path)
    if not is_file(path):
        raise FileNotFoundError(f"there is no weight file {printable(path)}")
    return path


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Whatever a reader raises becomes a ValueError: a damaged file may lead it anywhere; no list would be whole."""
    try:
        yield
    except Exception as error:
        reason = printable(str(error).split("\n")[0], 300)
        raise ValueError(
            f"{printable(path)} is not a whole {kind} ({type(error).__name__}: {reason}); fetch or save it again"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with reading(path, "safetensors file"):
        return load_file(path)


def _read_numpy(path: Path) -> dict[str, Tensor]:
    with reading(path, "file of numpy arrays"), zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        for name in sizes:
            with archive.open(name) as file:
                _check_array(name, file, sizes[name])
    if not _fits(path, said := sum(sizes.values())):
        _refuse_growth(path, said)
    with reading(path, "file of numpy arrays"), np.load(path, allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def _check_array(name: str, file, size: int) -> None:
    """Compare what the header of an array says with the size of its entry, before numpy makes room for it."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{name} is written in a version of the format that holds no plain arrays")
    shape, _, kind = read(file)
    count = 1
    for side in shape:
        count *= int(side)
    if kind.hasobject or count * kind.itemsize != size - file.tell():
        raise ValueError(f"{name} is said to be {shown(shape)} of {kind}, and its entry has {size} bytes")


def _read_torch(path: Path) -> object:
    """A checkpoint of `torch.save`, by torch's reader that makes tensors and plain containers and runs nothing else."""
    remedy = "Get the weights as .safetensors, or convert the file yourself if you trust its source"
    with reading(path, "PyTorch weight file"), open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # as torch tells the two formats apart
        with zipfile.ZipFile(file) if zipped else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            entries = data.infolist() if zipped else []
            said = sum(entry.file_size for entry in entries)
            pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
            if fits := _fits(path, said):
                reserves = any(_reserves(data.read(entry)) for entry in pickles) if zipped else _reserves(data)
    if not fits:
        _refuse_growth(path, said)
    if reserves:
        raise ValueError(f"{printable(path)} is refused: it asks for memory of any size, as no weights do. {remedy}")
    try:
        return _load(path)
    except (RuntimeError, EOFError, OSError, ValueError, MemoryError, AssertionError) as error:
        reason = printable(str(error).split("\n")[0], 300)
        raise ValueError(
            f"{printable(path)} is not a whole PyTorch weight file ({reason}); fetch or save it again"
        ) from error
    except Exception as error:  # its unpickler follows a damaged file anywhere
        raise ValueError(
            f"{printable(path)} is refused: it is corrupt, or it holds objects other than tensors, which could run "
            f"code when they are read. {remedy}"
        ) from error


def _load(path: Path) -> object:
    """What torch reads, with the namespaces that the checkpoints of timm's training hold as `args`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "argparse.Namespace" not in str(error):
            raise
    # Torch knows one list for all threads.
    with _NAMESPACES.mine(), torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _reserves(pickled: bytes | mmap.mmap) -> bool:
    """Whether a pickle names the one type that torch's reader makes of any size that a few bytes ask for."""
    return pickled.find(b"builtin") >= 0 and pickled.find(b"bytearray") >= 0


def _fits(path: Path, said: int) -> bool:
    """Whether what a file says it holds, in bytes, is not far more than it can hold."""
    return said <= max(ALWAYS, GROWTH * path.stat().st_size)


def _refuse_growth(path: Path, said: int) -> NoReturn:
    raise ValueError(
        f"{printable(path)} has {path.stat().st_size} bytes and says that it holds {said}, more than {GROWTH} times as "
        "much, as no weights do; fetch or save it again"
    )


def take_state_dict(checkpoint: object, name: str) -> dict[str, Tensor]:
    """The weights in a checkpoint: itself, or what it holds under the first of `HOLDERS`; averaged ones go first.

    Example:
        >>> plain, averaged = {"bias": torch.zeros(2)}, {"bias": torch.ones(2)}
        >>> take_state_dict({"epoch": 9, "state_dict": plain, "state_dict_ema": averaged}, "last.pth")
        {'bias': tensor([1., 1.])}

    Raises:
        ValueError: There is no mapping of names to tensors, or one that no model can take: sparse, nested, quantised,
            or without values, as those of the meta device.
    """
    state, remedy = checkpoint, f"save model.state_dict(), alone or under one of the keys {', '.join(HOLDERS)}"
    for _ in HOLDERS:  # one may lie in another
        if isinstance(state, Mapping):
            state = next((state[key] for key in HOLDERS if isinstance(state.get(key), Mapping) and state[key]), state)
    if not isinstance(state, Mapping) or not state:
        why = "it is empty" if isinstance(state, Mapping) else f"it is of the type {type(state).__name__}"
        raise ValueError(f"{name} holds no mapping of names to tensors: {why}; {remedy}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{name} holds no mapping of names to tensors: {shown(key)} is of the type {type(value).__name__}; "
                f"{remedy}"
            )
        if kind := _odd_kind(value):
            raise ValueError(f"{name}: {shown(key)} is a tensor that is {kind}; save plain, dense tensors with values")
    return dict(state)


def _odd_kind(tensor: Tensor) -> str | None:
    """In what a tensor differs from those that a model's weights can be; None if in nothing."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantised"
    return "on the meta device" if tensor.is_meta else None
