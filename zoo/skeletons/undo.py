"""Changes of a model that happen whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Leave every module of a model as it was, if what is done to them here raises.

    What a module holds is put back: parameters, buffers, children and plain attributes, the very same objects. So what
    is done here has to put new tensors in the place of old ones, and may not write into them.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> weight = model.weight
        >>> try:
        ...     with all_or_nothing(model):
        ...         model.weight = nn.Parameter(weight[:1].detach())
        ...         raise ValueError
        ... except ValueError:
        ...     model.weight is weight
        True
    """
    before = []
    for module in model.modules():
        held = dict(vars(module))
        before.append((module, held, {k: v.copy() for k, v in held.items() if isinstance(v, (dict, list, set))}))
    try:
        yield
    except BaseException:
        for module, held, contents in before:
            vars(module).clear()
            vars(module).update(held)
            for name, content in contents.items():
                container = held[name]
                container.clear()
                container.extend(content) if isinstance(container, list) else container.update(content)
        raise
