"""The spline layers of a model, and the inputs that each of them sees."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoo.blocks.kan.linear import KANLinear

Record = Mapping[str, list[Tensor]]


def kan_layers(model: nn.Module) -> dict[str, KANLinear]:
    """Every KANLinear of a model by its name; a single layer has the name "".

    Raises:
        ValueError: There is none.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, KANLinear)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no KANLinear; give a model that has, or a KANLinear itself")
    return layers


@contextmanager
def record_inputs(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Note the inputs of every KANLinear while the model runs, with their gradients; the model must run in eager mode.

    Example:
        >>> model = nn.Sequential(KANLinear(2, 5), KANLinear(5, 1))
        >>> with record_inputs(model) as inputs:
        ...     y = model(torch.randn(7, 2))
        >>> {name: tuple(x.shape) for name, (x,) in inputs.items()}
        {'0': (7, 2), '1': (7, 5)}
    """
    record: dict[str, list[Tensor]] = {}

    def note(name: str):
        return lambda layer, args, kwargs: record.setdefault(name, []).append(first(args, kwargs))

    handles = [
        layer.register_forward_pre_hook(note(name), with_kwargs=True) for name, layer in kan_layers(model).items()
    ]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def first(args: tuple, kwargs: dict) -> Tensor:
    """The input of a layer, as its hooks see it."""
    return args[0] if args else kwargs["x"]


def inputs_of(model: nn.Module, x: Tensor | Record) -> list[tuple[str, KANLinear, Tensor]]:
    """(name, layer, inputs as rows) for each layer, in the order in which they are called.

    Args:
        model: A model, or a KANLinear.
        x: Its input, or what `record_inputs` has noted.
    """
    if isinstance(model, KANLinear) and isinstance(x, Tensor):
        x = {"": [x]}
    if isinstance(x, Tensor):
        with record_inputs(model) as record:
            model(x)
        x = record
    layers = kan_layers(model)
    return [
        (name, layers[name], torch.cat([part.reshape(-1, layers[name].in_features) for part in parts]))
        for name, parts in x.items()
    ]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and each module's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
