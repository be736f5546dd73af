"""What is timed and where: models by name or as they are, their inputs and outputs, device, threads, precision."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import Tensor, nn

from zoo.checks import check_type, printable, shown, unknown
from zoo.create import create_model
from zoo.export.program import without_zeros
from zoo.weights.pretrained import SIZE

Candidates = str | Sequence[str] | Mapping[str, nn.Module]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}  # of the batch


def models_of(candidates: Candidates) -> dict[str, nn.Module]:
    """Models by name: of zoo, of timm, or as they are. A name that comes twice is two models.

    Raises:
        TypeError: A candidate is no name, or no module under a name.
        ValueError: There is no such model, or no candidate at all.
    """
    if isinstance(candidates, Mapping):
        for name, model in candidates.items():
            if not isinstance(name, str) or not isinstance(model, nn.Module):
                raise TypeError(f"candidate {shown(name)} is a {type(model).__name__}; give a module by a name")
        models = dict(candidates)
    else:
        names = [candidates] if isinstance(candidates, str) else candidates
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise TypeError(
                f'candidates is {shown(candidates)}; give names of models, or modules by name: {{"mine": model}}'
            )
        again = {i: names[:i].count(name) + 1 for i, name in enumerate(names)}
        models = {
            f"{name} ({again[i]})" if again[i] > 1 else name: without_zeros(model_of(name))
            for i, name in enumerate(names)
        }
    if not models:
        raise ValueError("candidates is empty; give a name of zoo.list_models(), or timm:<name>")
    return models


def model_of(name: str) -> nn.Module:
    """A model of zoo, or one of timm's own as ``timm:<name>``.

    Raises:
        ValueError: There is none of that name.
    """
    if not name.startswith("timm:"):
        return create_model(name)
    arch = name.removeprefix("timm:")
    if not timm.is_model(arch):
        known = timm.list_models()
        raise ValueError(unknown(f"timm's model {shown(arch)}", arch, known, count=3, see="timm.list_models()"))
    return timm.create_model(arch)


def input_size_of(name: str, model: nn.Module) -> tuple[int, ...]:
    """Shape of one input of a model, without the batch."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    size = getattr(model, "input_size", None) or config.get("input_size")
    if size is None:
        raise ValueError(f"{printable(name)} does not tell its input size; set model.input_size = (C, H, W)")
    check_type(f"{printable(name)}: input_size", size, SIZE)
    return tuple(size)


def tensor_of(outputs: Any) -> Tensor:
    """The outputs of a model, or the first tensor of floating-point numbers among several of them.

    Raises:
        TypeError: There is none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    several = list(outputs.values()) if isinstance(outputs, Mapping) else outputs
    for one in several if isinstance(several, (list, tuple)) else ():
        if isinstance(one, Tensor) and one.is_floating_point():
            return one
    raise TypeError(f"the model gives a {type(outputs).__name__}, in which there is no tensor to compare")


def device_of(name: str) -> torch.device:
    """A device that can be used here.

    Raises:
        ValueError: It cannot, or there is none of that name.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {shown(name)} is unknown; give cpu or cuda") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"device {shown(name)} cannot be used here; give cpu, or cuda on a machine with a GPU")
    return device


@contextmanager
def with_threads(number: int | None) -> Iterator[int]:
    """Within it torch has a number of threads, which is one for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield number or before
    finally:
        torch.set_num_threads(before)


def conditions(timed: str, device: torch.device, threads: int, rounds: int) -> str:
    """What a report says of the run: what was timed, on what, with what."""
    place = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU, {threads} threads"
    return f"{timed}, {place}, torch {torch.__version__}, timm {timm.__version__}, {rounds} rounds in turns"
