"""Checkpoints: folders `step-00000400` of

    model.safetensors     the weights
    ema.safetensors       their average, if the recipe keeps one
    methods.safetensors   what its methods train beside the model, if they do
    optimizer.pt          the optimizer's state
    checkpoint.json       the step, and the SHA-256 of each of these files

A checkpoint is written beside its place, in a hidden folder, and renamed into it; one that is there already is renamed
into the hidden folder first, and `recover` puts it back if a kill comes between. Checkpoints of older versions have no
checkpoint.json, and nothing to compare their files with.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.checks import Interval, check_type, printable
from zoo.storage.files import clear_left, settle, sha256_of, staging, sync, telling

STEP = "step-" + "[0-9]" * 8
WEIGHTS = ("model.safetensors", "ema.safetensors", "methods.safetensors")
OPTIMIZER, SUMMARY = "optimizer.pt", "checkpoint.json"
FILES = (*WEIGHTS, OPTIMIZER, SUMMARY)  # a folder without any of them holds what somebody put there
# What checkpoint.json says; the first two are always there.
SAID = {
    "step": Annotated[int, Interval(0, 99_999_999)],
    "sha256": dict[Literal[(*WEIGHTS, OPTIMIZER)], str],
    "first_losses": dict[str, float],
    "unreadable": Annotated[int, Interval(0)],
    "loss_scale": dict[str, float],
    "best": dict[str, float],
}
OLD = "old"  # in the folder that a checkpoint is written in: the one that it replaces
# What older versions of zoo, killed while they wrote a checkpoint, left: a folder, and in it files.
PARTIAL, LEFT = STEP + ".partial", re.compile(rf"\.(?:{'|'.join(map(re.escape, FILES))})\.[a-z0-9_]{{8}}\.tmp")


Weights = dict[str, dict[str, Tensor]]  # a state dict a file, by the file's name without its suffix
Content = tuple[Weights, dict[str, Any], dict[str, Any]]  # the weights, the optimizer's state, and what else is said


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the latest last."""
    return sorted(path for path in folder.glob(STEP) if is_checkpoint(path))


def is_checkpoint(path: Path) -> bool:
    """Whether a folder has some file of a checkpoint."""
    return any((path / name).is_file() for name in FILES)


def write_checkpoint(target: Path, weights: Weights, optimizer: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Write a checkpoint; `facts` goes into checkpoint.json.

    It takes the place of one of the same step; what else lies in a folder of that name stays there. If a file does, it
    gives False, with a warning.
    """
    if target.exists() and not target.is_dir():
        warnings.warn(
            f"{printable(target)} is where a checkpoint should be, which is not written: move it elsewhere",
            stacklevel=2,
        )
        return False
    with telling(target, _bytes(weights) + _bytes(optimizer)), staging(target.parent, _clear) as stage:
        new = stage / target.name
        new.mkdir()
        step = step_of(target)
        for name, tensors in weights.items():
            # In memory of their own: safetensors refuses tensors that share it, such as tied weights.
            copies = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
            save_file(copies, new / f"{name}.safetensors", metadata={"step": str(step)})
        torch.save(optimizer, new / OPTIMIZER)
        sums = {name: sha256_of(new / name) for name in [*(f"{name}.safetensors" for name in weights), OPTIMIZER]}
        (new / SUMMARY).write_bytes(_sealed({"step": step, "sha256": sums} | facts))
        settle(new)
        if target.exists():  # a folder of somebody's, or one that is written anew
            (stage / OLD).mkdir()
            target.replace(stage / OLD / target.name)
        new.replace(target)
        sync(target.parent)
    return True


def recover(folder: Path) -> None:
    """Clear what killed processes left in a folder of checkpoints; one that was being replaced is back in its place."""
    if folder.is_dir():
        clear_left(folder, _clear)


def _clear(stage: Path) -> bool:
    """For `staging`: put back what was renamed into a stage, the whole of it or only what is somebody's own."""
    for old in (stage / OLD).glob("*"):
        target = stage.parent / old.name
        if not target.exists():
            old.replace(target)
        elif not old.is_symlink():  # what it stands for is still there
            for path in [path for path in old.iterdir() if not _is_ours(path)]:
                path.replace(target / path.name)
    return True


def _is_ours(path: Path) -> bool:
    """Whether something in the folder of a checkpoint is a file of it, or what an older version left of one."""
    return (path.name in FILES or LEFT.fullmatch(path.name) is not None) and not path.is_dir()


def _bytes(state: Any) -> int:
    """How many the tensors of a state take, however they are nested."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    items = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(map(_bytes, items))


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, or what an older version left of one; what somebody put into it stays."""
    if not path.is_dir():
        return
    for file in [file for file in path.iterdir() if _is_ours(file)]:
        file.unlink()
    with suppress(OSError):
        path.rmdir()


def read_checkpoint(path: Path, names: Sequence[str]) -> Content:
    """The state dicts of these names, the optimizer's, and `read_summary`, with which all files are compared first.

    Raises:
        ValueError: a file is damaged or missing, or the checkpoint is of another step than its name says.
    """
    summary = read_summary(path)
    for file in [f"{name}.safetensors" for name in names]:
        if file not in summary.get("sha256", [file]):
            raise ValueError(f"{printable(path / file)} is missing: {SUMMARY} knows of none")
    weights = {name: _load(path / f"{name}.safetensors", load_file) for name in names}
    optimizer = _load(path / OPTIMIZER, lambda file: torch.load(file, map_location="cpu", weights_only=True))
    return weights, optimizer, summary


def read_summary(path: Path) -> dict[str, Any]:
    """What checkpoint.json says, after all files were compared with it; of an older checkpoint, what its name says.

    Raises:
        ValueError: as `read_checkpoint`.
    """
    file, named = path / SUMMARY, step_of(path)
    if not file.is_file():
        if _is_new(path / WEIGHTS[0]):
            raise ValueError(f"{printable(file)} is missing")
        if named is None:
            raise ValueError(f"{printable(path)} does not say its step, as the name step-00000400 does")
        return {"step": named}
    try:
        content = file.read_bytes()
        summary = json.loads(content)
        del summary["seal"]
        whole = _sealed(summary) == content
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{printable(file)} is damaged: it is not what was written")
    try:
        for name, hint in SAID.items():
            if name in summary:
                check_type(name, summary[name], hint)
        if absent := [name for name in ("step", "sha256") if name not in summary]:
            raise ValueError(f"it has no {absent[0]}")
        if absent := [name for name in (WEIGHTS[0], OPTIMIZER) if name not in summary["sha256"]]:
            raise ValueError(f"sha256 has nothing of {absent[0]}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{printable(file)} is damaged: {error}") from None
    step, sums = summary["step"], summary["sha256"]
    if named not in (None, step):
        raise ValueError(f"{printable(path)} was renamed: its {SUMMARY} says that it is of step {step}")
    for name, expected in sums.items():
        if not (path / name).is_file():
            raise ValueError(f"{printable(path / name)} is missing")
        if sha256_of(path / name) != expected:
            raise ValueError(f"{printable(path / name)} is damaged: its SHA-256 is not the one in {SUMMARY}")
    return summary


def _sealed(summary: dict[str, Any]) -> bytes:
    """The content of checkpoint.json, with a checksum of its own."""
    seal = hashlib.sha256(json.dumps(summary).encode()).hexdigest()
    return json.dumps(summary | {"seal": seal}, indent=1).encode() + b"\n"


def step_of(path: Path) -> int | None:
    """The step that a checkpoint's name says; None if it says none."""
    return int(path.name.removeprefix("step-")) if re.fullmatch(STEP, path.name) else None


def _is_new(path: Path) -> bool:
    """Whether weights are of a checkpoint that must have a checkpoint.json."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            return "step" in (file.metadata() or {})
    except Exception:  # of several kinds; `_load` names the file
        return False


def _load(path: Path, load: Any) -> Any:
    if not path.is_file():
        raise ValueError(f"{printable(path)} is missing")
    try:
        return load(path)
    except Exception as error:  # of many kinds, by what is damaged
        raise ValueError(f"{printable(path)} is damaged ({type(error).__name__}: {printable(error, 400)})") from error
