"""What any module of a model may have of its own in a training, so that no training knows a module by its name.

``after_step(self, aux)``
    Called after each step of the optimizer, with what the module's layer reported in it. A module names the statistics
    that its layer gives an entry of, in ``reports = ("stat/load",)``, and gets this entry of each, as their mean over
    all processes. It answers for what stands within it too: no module below it is asked. One that reports nothing gets
    an empty mapping.
``phases = ("select",)`` and ``enter(self, phase)``
    The names of the phases that a module knows, and what it changes when one of them begins.

Both run without gradients. What they change must be in buffers or parameters, in place: these a checkpoint has, and a
run that goes on is then the uninterrupted one. All processes call them at the same step, and must change alike.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, distributed, nn

Entries = Mapping[str, Tensor | tuple[Tensor, ...]]


@torch.no_grad()
def after_step(model: nn.Module, aux: Entries) -> None:
    """Let the modules of a model do what they do after a step of the optimizer.

    Under `torch.distributed` every process calls this; the statistics are exchanged at once, not one a module.

    Args:
        model: The model.
        aux: What ``model(x, return_aux=True)`` returned beside its output, in this step.

    Example:
        >>> class Counting(nn.Module):
        ...     reports = ("stat/share",)
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_buffer("total", torch.zeros(()))
        ...     def after_step(self, aux):
        ...         self.total += aux["stat/share"]
        >>> model = nn.Sequential(Counting(), Counting())
        >>> after_step(model, {"stat/share": (torch.tensor(0.25), torch.tensor(0.5))})
        >>> [layer.total.item() for layer in model]
        [0.25, 0.5]

    Raises:
        ValueError: `aux` has not as many entries of a statistic as the model has modules that report it.
    """
    shares = entries_of(model, aux, lambda module: own(module, "after_step") is not None)
    means = mean_over_processes([entry for _, part in shares for entry in part.values()])
    for module, part in shares:
        module.after_step({key: means.pop(0) for key in part})


def phases_of(model: nn.Module) -> set[str]:
    """Names of all phases that modules of a model know."""
    return {phase for module in model.modules() for phase in _phases(module)}


@torch.no_grad()
def enter(model: nn.Module, phase: str) -> None:
    """Let a phase begin, in each module that knows it.

    Example:
        >>> from zoo.blocks.kan.select import SelectKANLinear
        >>> layer = SelectKANLinear(4, 3, bases=("rbf", "fourier"))
        >>> phases_of(layer)
        {'select'}
        >>> enter(layer, "select")
        >>> layer.gates.selected
        True
    """
    for module in model.modules():
        if phase in _phases(module):
            module.enter(phase)


def own(module: nn.Module, name: str) -> Callable | None:
    """A module's method of this name; None for one that a wrapper hands on from what it wraps."""
    method = getattr(module, name, None)
    return method if getattr(method, "__self__", None) is module else None


def entries_of(
    model: nn.Module, aux: Entries, wanted: Callable[[nn.Module], bool]
) -> list[tuple[nn.Module, dict[str, Tensor]]]:
    """The modules that are wanted, each with its entry of what it reports.

    Raises:
        ValueError: `aux` has not as many entries of something that is wanted as modules report it.
    """
    modules = list(_asked(model))
    keys = {key for module in modules if wanted(module) for key in _reports(module)}
    rest: dict[str, list[Tensor]] = {}
    for key in keys:
        entries = aux.get(key, ())
        rest[key] = [entries] if isinstance(entries, Tensor) else list(entries)
        count = sum(key in _reports(module) for module in modules)
        if len(rest[key]) != count:
            raise ValueError(
                f"aux has {len(rest[key])} entries of {key} and the model has {count} modules that report it; give "
                "what model(x, return_aux=True) returned, and let each module that reports it say so in `reports`"
            )
    shares = []
    for module in modules:
        part = {key: rest[key].pop(0) for key in _reports(module) if key in keys}
        if wanted(module):
            shares.append((module, part))
    return shares


def reporters(model: nn.Module, key: str) -> list[nn.Module]:
    """The modules that report a statistic, in the order of its entries."""
    return [module for module in _asked(model) if key in _reports(module)]


def sum_over_processes(values: Sequence[Tensor]) -> list[Tensor]:
    """Each of the tensors as its sum over all processes, in one exchange; as they are where there is but one."""
    if not values or not _several():
        return list(values)
    total = torch.cat([value.flatten() for value in values])
    distributed.all_reduce(total)
    parts = total.split([value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]


def mean_over_processes(values: Sequence[Tensor]) -> list[Tensor]:
    """Each of the tensors as its mean over all processes, in one exchange; as they are where there is but one."""
    sums = sum_over_processes(values)
    return [value / distributed.get_world_size() for value in sums] if _several() else sums


def _several() -> bool:
    """Whether there may be other processes."""
    return distributed.is_available() and distributed.is_initialized()


def _asked(module: nn.Module, seen: set[nn.Module] | None = None) -> Iterator[nn.Module]:
    """A module and all below it, each once, without those below one that answers for them."""
    seen = set() if seen is None else seen
    if module in seen:
        return
    seen.add(module)
    yield module
    if not _reports(module):
        for child in module.children():
            yield from _asked(child, seen)


def _reports(module: nn.Module) -> tuple[str, ...]:
    """What a module's layer reports; a wrapper that hands on attributes reports nothing itself."""
    return vars(module).get("reports", getattr(type(module), "reports", ()))


def _phases(module: nn.Module) -> tuple[str, ...]:
    return getattr(module, "phases", ()) if own(module, "enter") else ()
