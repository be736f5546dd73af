"""Networks within a network: the first channels of every layer, the first blocks, or both, cut out of a trained model.

A narrower or shallower model of the same family lies in a wider one if each of its weights is the beginning of the
wider one's. Any model can be cut so; one that was trained for it (the method ``sorted`` of a recipe) is good at once.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checks import shown
from zoo.skeletons.isotropic import Isotropic
from zoo.slots import Slot

PER_BLOCK = ("token_mixer", "channel_mixer", "norm")  # arguments that list a slot a block


def cut(model: nn.Module, **arguments: Any) -> nn.Module:
    """A model of its own with the weights that lie at the beginning of another's.

    Args:
        model: An isotropic model of `zoo.create_model`.
        arguments: What is smaller: `depth`, `dim`, or a slot such as ``channel_mixer="mlp(hidden=64)"``.

    Returns:
        The smaller model, in the same mode; it shares no memory with the other.

    Example:
        >>> import zoo
        >>> small = cut(zoo.create_model("mixer_test"), dim=16, depth=2)
        >>> len(small.blocks), small.blocks[0].channel_mixer.fc1.weight.shape
        (2, torch.Size([64, 16]))

    Source: Valipour et al., "SortedNet" (arXiv 2309.00255), section 3.
    Differs: of a weight that is several matrices in one, such as queries, keys and values, the beginning of each is
        taken. A gMLP's unit, whose halves are one matrix, is cut as that matrix.

    Raises:
        TypeError: It is no isotropic model of zoo.
        ValueError: The arguments make no model whose every weight lies in the other's; the message says which does not.
    """
    small = smaller(model, arguments)
    weights = slices(model, small)
    with torch.no_grad():
        for name, tensor in _tensors(small).items():
            tensor.copy_(weights[name])
    return small.train(model.training)


def smaller(model: nn.Module, arguments: Mapping[str, Any]) -> nn.Module:
    """The model that `cut` gives, before it has the weights; it lies where the other does.

    Raises:
        TypeError, ValueError: As `cut`.
    """
    if not isinstance(model, Isotropic):
        raise TypeError(f"networks are cut out of isotropic models of zoo.create_model, not of {type(model).__name__}")
    config = dict(model.config)
    depth, dim = arguments.get("depth"), arguments.get("dim")
    if isinstance(depth, int):
        config |= {name: config[name][:depth] for name in PER_BLOCK}
    if isinstance(dim, int):
        config |= {name: [_fewer_heads(slot, config["dim"], dim) for slot in config[name]] for name in PER_BLOCK}
    weight = next(model.parameters())
    place = {"device": weight.device, "dtype": weight.dtype}
    small = type(model)(**(config | arguments), **place)
    small.pretrained_cfg = dict(model.pretrained_cfg)
    for name in ("num_classes", "in_chans", "img_size"):
        if getattr(small, name) != getattr(model, name):
            raise ValueError(f"{name} is not cut, since all networks see the same data: leave it out")
    slices(model, small)
    _check_heads(model, small)
    if count(small) == count(model):
        raise ValueError(f"{shown(dict(arguments))} leaves the model as large as it is: give smaller arguments")
    return small


def count(model: nn.Module) -> int:
    """The number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def slices(model: nn.Module, small: nn.Module) -> dict[str, Tensor]:
    """Views of a model's weights and buffers, by the names of a smaller model that lies in it; gradients reach them.

    Raises:
        ValueError: A tensor of the smaller model does not lie in the other.
    """
    wide, views = _tensors(model), {}
    kept = model.state_dict(keep_vars=True).keys()
    stacked = _stacked(small)
    for name, tensor in _tensors(small).items():
        if name not in wide or wide[name].ndim != tensor.ndim:
            raise ValueError(f"{name} of the smaller model has nothing in the larger one: change other arguments")
        view, parts = wide[name], stacked.get(name, 1)
        if any(ours > theirs for ours, theirs in zip(tensor.shape, view.shape, strict=True)):
            raise ValueError(
                f"{name} has the shape {tuple(tensor.shape)}, and {tuple(view.shape)} in the larger model: give "
                "smaller arguments"
            )
        if tensor.shape != view.shape:
            if parts > 1:
                view = view.unflatten(0, (parts, -1))[:, : len(tensor) // parts]
                view = view[(slice(None), slice(None), *(slice(size) for size in tensor.shape[1:]))].flatten(0, 1)
            else:
                view = view[tuple(slice(size) for size in tensor.shape)]
        if name not in kept and not torch.equal(view, tensor):
            raise ValueError(
                f"{name} is no weight but follows from the size, and is another in a smaller model: change other "
                "arguments, such as depth"
            )
        views[name] = view
    return views


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _stacked(model: nn.Module) -> dict[str, int]:
    """The weights that are several matrices in one, by their names, and how many: each has its scheme in `init`."""
    found = {}
    for name, module in model.named_modules():
        schemes = getattr(module, "init", None)
        if isinstance(schemes, tuple) and len(schemes) > 1:
            found |= {f"{name}.{key}": len(schemes) for key in ("weight", "bias")}
    return found


def _fewer_heads(slot: Slot, dim: int, to: int) -> Slot:
    heads = slot.options.get("heads")
    if not isinstance(heads, int):
        return slot
    if heads * to % dim:
        raise ValueError(f"dim is {to}; of {dim} channels in {heads} heads it must keep whole heads")
    return Slot(slot.name, {**slot.options, "heads": heads * to // dim}, slot.factory)


def _check_heads(model: nn.Module, small: nn.Module) -> None:
    """Check that heads are as wide as before, so that those of the smaller model are the first of the larger one."""
    wide, dim, before = dict(model.named_modules()), small.config["dim"], model.config["dim"]
    for name, module in small.named_modules():
        ours, theirs = getattr(module, "heads", None), getattr(wide.get(name), "heads", None)
        if isinstance(ours, int) and isinstance(theirs, int) and ours * before != theirs * dim:
            raise ValueError(
                f"{name} has {ours} heads in {dim} channels, and {theirs} in {before} of the larger model: give a dim "
                "that leaves heads as wide as they are"
            )
