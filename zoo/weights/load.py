"""Loading a checkpoint into a model, key by key, shape by shape and kind by kind."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from zoo.checks import printable, some
from zoo.weights.loaded import Fate, Loaded
from zoo.weights.rules import HEAD, Fit, Rules, StateDict, fit_of
from zoo.weights.source import WeightSource

# What wrappers put before the keys of the model inside: DataParallel and DDP, torch.compile, Lightning.
WRAPPERS = ("module.", "_orig_mod.", "model.")


@runtime_checkable
class Resizable(Protocol):
    """A module that can change its size after it was built, such as a spline with a refined grid."""

    def take_sizes(self, state: StateDict) -> None:
        """Take the sizes of what is about to be loaded, by the names of the module's own state dict."""


def load_weights(model: nn.Module, source: WeightSource, *, head: bool = True) -> Loaded:
    """Load weights into a model, key by key and shape by shape.

    Three differences are bridged: prefixes of wrappers that all keys share are taken off; a first convolution is
    adapted, as timm does, if the model was asked for with another number of channels than the weights have; and a
    classifier that does not fit is left at its initialisation, with a warning, if it was asked for with another number
    of classes. About these numbers the file has the last word: a classifier that fits is loaded, whatever the source is
    said to have.

    Example:
        >>> import zoo
        >>> model, twin = zoo.create_model("kan_test"), zoo.create_model("kan_test")
        >>> load_weights(twin, WeightSource("the first model", model.state_dict))
        <Loaded from the first model: 6 loaded>
        >>> torch.equal(twin.head.weight, model.head.weight)
        True

    Args:
        model: A zoo model on a real device.
        source: The weights. Rules are for published keys: they do not apply where the keys are the model's own.
        head: Whether the model's classifier is wanted at all.

    Returns:
        What became of each tensor of the model.

    Raises:
        ValueError: A key or shape does not fit; all of them are listed. Or a tensor is of another kind of numbers than
            the model's, or has numbers that the model's type cannot hold.
    """
    check_real(model, source.name)
    tensors, notes, told = fit_weights(model, source, head=head)
    if told:
        warnings.warn(f"{source.name}: {told}", stacklevel=2)
    target = model.state_dict()
    fates = {
        key: Fate(
            "converted" if key in notes else "loaded" if key in tensors else "new", value.numel(), notes.get(key, "")
        )
        for key, value in target.items()
        if head or not key.startswith(HEAD)
    }
    model.load_state_dict(target | tensors, strict=True)
    return Loaded.of(source.name, fates.items())


def check_real(model: nn.Module, name: str) -> None:
    """Check that a model can be given weights.

    Raises:
        ValueError: It is on the meta device.
    """
    if any(p.is_meta for p in model.parameters()):
        raise ValueError(
            f"cannot load {name} into a model on the meta device; create it with device='cpu' or leave device out"
        )


def fit_weights(
    model: nn.Module, source: WeightSource, *, head: bool = True
) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """The tensors of some weights by the names of a model, which may be on the meta device, as `load_weights` says.

    Modules of the model take the sizes of what they are to load.

    Returns:
        The tensors, those of a classifier that starts anew left out; by name what was done to those that are not as
        they were in the weights; and what the user is to be warned of, if anything.

    Raises:
        ValueError: As `load_weights` does.
    """
    built, told = model.state_dict(), ""
    fit = _fit(model, source)
    target = model.state_dict()
    wrong = [key for key in fit.wrong() if key.startswith(HEAD)]
    theirs = fit.classes(model.num_classes)
    if isinstance(model.head, nn.Identity) or not head:
        fit = fit.without(HEAD)
    elif wrong and model.num_classes and source.classes not in (None, model.num_classes):
        told = _head_starts_anew(fit, wrong, theirs, model.num_classes)
        fit = fit.without(HEAD)
        if any(value.shape != target[key].shape for key, value in built.items() if key.startswith(HEAD)):
            model.reset_classifier(model.num_classes)  # it has taken sizes of the file, and lost its values
    tensors = fit.check(source.name, _remedy(fit, theirs))
    _check_numbers(tensors, model, source.name)
    return tensors, {key: f"channels {source.chans} -> {tensors[key].shape[1]}" for key in fit.adapted}, told


def misfits(model: nn.Module, source: WeightSource, *, head: bool = True) -> int:
    """How many keys of some weights would not fit a model, which may be on the meta device; 0 if it can load them."""
    anew = not head or isinstance(model.head, nn.Identity) or source.classes not in (None, model.num_classes)
    fit = _fit(model, source)
    return len((fit.without(HEAD) if anew else fit).wrong())


def _fit(model: nn.Module, source: WeightSource) -> Fit:
    """What comes of the keys of some weights in a model, whose modules take their sizes."""
    state = unwrapped(source.read(), model.state_dict(), source.rules)
    _take_sizes(model, state, source.name)
    target = model.state_dict()
    # In zoo's own layout a name may be another's published one.
    rules = () if state.keys() == target.keys() else source.rules
    adapt = {} if source.chans is None else {"stem.proj.weight": partial(_adapt_channels, source.chans)}
    return fit_of(state, target, rules, source.name, adapt)


def check_fit(model: nn.Module, state: StateDict, name: str, *, head: bool = True) -> None:
    """Check that a checkpoint in zoo's own layout fits a model, by keys and shapes alone: both may be on meta.

    Args:
        model: A zoo model; modules that take the sizes of what they load do so.
        state: The checkpoint, e.g. of `zoo.weights.read_shapes`.
        name: The checkpoint's name in error messages.
        head: Whether the model's classifier has to fit too.

    Raises:
        ValueError: A key or shape does not fit; all of them are listed.
    """
    _take_sizes(model, state, name)
    fit = fit_of(state, model.state_dict(), (), name, {})
    fit = fit if head else fit.without(HEAD)
    fit.check(name, _remedy(fit, fit.classes(model.num_classes)))


def load_alike(module: nn.Module, state: StateDict, name: str, device: torch.device) -> None:
    """Load a checkpoint that has exactly the keys of a module on the meta device, which then is on a real one.

    Nothing is allocated before all of it fits: what a file says of a module is compared with what the file holds.

    Args:
        module: A module on the meta device whose state dict is all that it has.
        state: The checkpoint.
        name: The checkpoint's name in error messages.
        device: Where the module is put.

    Raises:
        ValueError: A key, a shape or a kind of numbers does not fit, as in `load_weights`.
    """
    tensors = fit_of(state, module.state_dict(), (), name, {}).check(name)
    _check_numbers(tensors, module, name)
    module.to_empty(device=device)
    module.load_state_dict(tensors)


def _remedy(fit: Fit, classes: int | None) -> str:
    """The arguments with which weights of that many classes would fit, where they can be told."""
    arguments = f", num_classes={classes}" if classes else ""
    _, theirs, ours = fit.shapes.get("stem.proj.weight", ("", (), ()))
    if len(theirs) == len(ours) == 4 and theirs[1] != ours[1] and theirs[0] == ours[0]:
        arguments += f", in_chans={theirs[1]}"
    return arguments


def _check_numbers(tensors: StateDict, model: nn.Module, name: str) -> None:
    """Check that tensors hold the kind of numbers that a model's hold, and none that its type has no room for.

    Buffers may be of truth values or whole numbers: some were, in files of earlier versions.

    Raises:
        ValueError: One does not.
    """
    target, parameters = model.state_dict(), dict(model.named_parameters())
    for key, value in tensors.items():
        ours, where = target[key].dtype, f"{name}: {some([key])}"
        if value.is_complex() and not ours.is_complex:
            raise ValueError(f"{where} is of complex numbers, and the model's of {ours}; save real numbers")
        if key in parameters and ours.is_floating_point and not (value.is_floating_point() or value.is_complex()):
            raise ValueError(
                f"{where} is of {value.dtype}, and the model's of {ours}; quantised or rounded weights must be turned "
                "back into floating-point numbers before they are saved"
            )
        if value.is_floating_point() and not (ours.is_floating_point or ours.is_complex):
            if not torch.equal(value.to(ours).to(value.dtype), value):
                raise ValueError(f"{where} has numbers that are not whole, and the model's are of {ours}")
        elif value.is_floating_point() and torch.finfo(value.dtype).max > torch.finfo(ours).max and value.numel():
            low, high = value.aminmax()
            if (torch.stack([low, high]).to(ours).isinf() & torch.stack([low, high]).isfinite()).any():
                raise ValueError(
                    f"{where} has numbers up to {max(-low.item(), high.item()):.3g}, which {ours} cannot hold; give "
                    f"the model the dtype {value.dtype}, or check where the weights are from"
                )


def _head_starts_anew(fit: Fit, wrong: Sequence[str], theirs: int | None, classes: int) -> str:
    """Which keys of the classifier do not fit, and why."""
    if theirs is not None:
        why = f"the file has {theirs} classes and the model {classes}. For the file's own, give num_classes={theirs}"
    elif set(wrong) <= set(fit.missing):
        why = f"the file has no classifier, and the model one of {classes} classes"
    else:
        why = f"it is of another kind than the model's, which has {classes} classes"
    return f"the classifier starts anew ({some(wrong)}), since {why}"


def unwrapped(state: StateDict, target: StateDict, rules: Rules = ()) -> StateDict:
    """A checkpoint without the prefixes of wrappers that all its keys share, however they are nested.

    A prefix that the model's own keys have, or the published ones by a rule that begins with it, is no wrapper's.

    Example:
        >>> state = {"module._orig_mod.norm.weight": torch.ones(1), "module._orig_mod.norm.bias": torch.zeros(1)}
        >>> list(unwrapped(state, {"norm.weight": torch.ones(1), "norm.bias": torch.zeros(1)}))
        ['norm.weight', 'norm.bias']
    """
    own = [key for prefix in WRAPPERS for key in target if key.startswith(prefix)]
    own += [rule.pattern.pattern.lstrip("^(?:").replace("\\", "") for rule in rules]
    foreign = [prefix for prefix in WRAPPERS if not any(key.startswith(prefix) for key in own)]
    while shared := [prefix for prefix in foreign if state and all(key.startswith(prefix) for key in state)]:
        state = {key.removeprefix(shared[0]): value for key, value in state.items()}
    return state


def _take_sizes(model: nn.Module, state: StateDict, name: str) -> None:
    """Let modules follow that can change their size after they are built, such as a spline with a refined grid."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if not isinstance(module, Resizable):
            continue
        own = module.state_dict()
        if all(prefix + key in state for key in own):
            try:
                module.take_sizes({key: state[prefix + key] for key in own})
            except (ValueError, RuntimeError, IndexError) as error:
                raise ValueError(f"{name}: the sizes of {path} cannot be taken: {printable(error, 300)}") from error


def _adapt_channels(chans: int, weight: Tensor, shape: torch.Size) -> Tensor:
    """A first convolution for another number of input channels than `chans`, where everything else fits."""
    if weight.ndim != 4 or tuple(weight.shape) != (shape[0], chans, *shape[2:]):
        return weight
    return adapt_input_conv(shape[1], weight.float(), base_chans=weight.shape[1]).to(weight.dtype)
