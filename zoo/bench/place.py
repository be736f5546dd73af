"""Where a model is timed: device, threads, precision, the size of its inputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from zoo.checks import printable, shown

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}  # of the batch


def input_size_of(name: str, model: nn.Module) -> tuple[int, ...]:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    size = getattr(model, "input_size", None) or config.get("input_size")
    if size is None:
        raise ValueError(f"{printable(name)} does not tell its input size; set model.input_size = (C, H, W)")
    return tuple(size)


def device_of(name: str) -> torch.device:
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
