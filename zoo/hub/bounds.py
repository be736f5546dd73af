"""What it would take to build what a folder's config.json asks for: looked at before anything is allocated.

How large a single argument may be, its annotation says (`zoo.checks.ranges`); here is what all of them make together,
beside what the weights hold.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.checks import printable

LIFT = "if you trust the folder, zoo.create_model(…, bounded=False) lifts the bounds"

ELEMENTS = 2**32  # of a model without weights that it could be compared with
TABLES = 2**26  # bytes of buffers that are in no file, unless the weights are larger
CALLS, CALLS_A_TENSOR = 500, 6  # of functions of torch that make tensors, while a model is built
UNKNOWN = 10_000  # tensors, where there are no weights
SAID = r"\b{}(?: is | has |=| ?['\":\[]| \w+(?:: | has ))"  # how a message says which argument it is about
PATIENCE = 0.4  # seconds for finding out which argument an error is about
LARGE = 2**22  # elements of a tensor that is made beside the model's own, on a real device


class Sizes(TorchFunctionMode):
    """Spares tensors on the meta device the values that they do not keep, which takes most of the time there."""

    SKIPPED = (Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_, Tensor.fill_)
    SKIPPED += (Tensor.zero_, Tensor.copy_, nn.init.uniform_, nn.init.normal_, nn.init.constant_, nn.init.trunc_normal_)
    SKIPPED += (nn.init.zeros_, nn.init.ones_, nn.init.kaiming_uniform_, nn.init.xavier_uniform_)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if func in self.SKIPPED and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **kwargs)


class Metered(Sizes):
    """The same, which stops a model that has far more parts than its weights, or makes large tensors for real.

    Args:
        tensors: How many tensors the weights have.
    """

    MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.arange, torch.linspace, torch.eye)
    MAKERS += (torch.rand, torch.randn, torch.randint, torch.randperm, torch.tensor)

    def __init__(self, tensors: int):
        super().__init__()
        self.left = CALLS + CALLS_A_TENSOR * tensors

    DRAWN = (Tensor.normal_, nn.init.normal_, nn.init.trunc_normal_)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.DRAWN and (std := (kwargs or {}).get("std", args[2] if len(args) > 2 else 1.0)) < 0:
            raise ValueError(f"a standard deviation is {std}; it must be at least 0")  # it would not be looked at below
        if func in self.MAKERS and args != (0,):  # such a one asks about a device, also in blocks without weights
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"the model has far more parts than its weights have tensors; {LIFT}")
            if func is not torch.tensor and torch.device((kwargs or {}).get("device") or "cpu").type != "meta":
                plain = {k: v for k, v in (kwargs or {}).items() if k not in ("device", "generator", "pin_memory")}
                count = func(*args, **plain, device="meta").numel()
                if count > LARGE:
                    raise ValueError(f"to build the model takes a table of {count} numbers; {LIFT}")
        return super().__torch_function__(func, types, args, kwargs)


def check_size(model: nn.Module, weights: int | None) -> None:
    """Check a model on meta for what its weights do not say: tables that it makes itself, or all of it without weights.

    Args:
        model: The model.
        weights: Size of its weight file in bytes; None if there is none.

    Raises:
        ValueError: It is too large; the message says how the bound is lifted.
    """
    state = model.state_dict(keep_vars=True)
    tables = sum(b.numel() * b.element_size() for name, b in model.named_buffers() if name not in state)
    if tables > max(TABLES, weights or 0):
        raise ValueError(
            f"the model makes tables of {tables} bytes that are in no file, and may make {max(TABLES, weights or 0)}; "
            f"{LIFT}"
        )
    if weights is None and (count := sum(value.numel() for value in state.values())) > ELEMENTS:
        raise ValueError(f"the model has {count} numbers, and without its weights may have {ELEMENTS}; {LIFT}")


Arguments = Mapping[str, Any]  # of a model, by name


def culprit(
    message: str, arguments: Arguments, own: Arguments, check: Callable[[Arguments], object], *, alone: bool = False
) -> str | None:
    """The argument that an error is about, if its message does not say one: that whose own value makes another end.

    Args:
        message: What was said.
        arguments: The arguments that were refused.
        own: What each was in the model that the variant's name means.
        check: Raises if arguments are refused.
        alone: Whether nothing else may be wrong then; the words of the message are not looked at.

    Returns:
        The key with ``model_args`` before it; None if the message has a key, or none can be told in `PATIENCE`.
    """
    if not alone and any(re.search(SAID.format(re.escape(key)), message) for key in arguments):
        return None
    start = time.monotonic()
    changed = [key for key, value in arguments.items() if key in own and own[key] not in (value, _side(value))]
    for key in sorted(changed, key=lambda key: not _is_size(arguments[key])):  # these are most often what is wrong
        if time.monotonic() - start > PATIENCE:
            break
        try:
            check({**arguments, key: own[key]})
        except Exception as second:  # whatever else is wrong is not asked about here
            if alone or printable(second, 1600) in message:
                continue
        return f"model_args: {key}"
    return None


def _side(value: Any) -> Any:
    """The value for all sides of a list that has the same for each."""
    return value[0] if isinstance(value, list) and value and all(side == value[0] for side in value) else value


def _is_size(value: object) -> bool:
    """Whether a value is a whole number, or several."""
    return all(type(one) is int for one in (value if isinstance(value, (list, tuple)) else [value]))
