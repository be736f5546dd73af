"""Loading a checkpoint into a model, key by key, shape by shape and kind by kind."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from zoo.checks import printable, some
from zoo.weights.rules import HEAD, Fit, Rule, fit_of

# What wrappers put before the keys of the model inside: DataParallel and DDP, torch.compile, Lightning.
WRAPPERS = ("module.", "_orig_mod.", "model.")


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    rules: Iterable[Rule],
    what: str,
    *,
    source_classes: int | None = None,
    source_chans: int | None = None,
    head: bool = True,
) -> None:
    """Load a checkpoint into a model, key by key and shape by shape.

    Three differences are bridged: prefixes of wrappers that all keys share are taken off; a first convolution is
    adapted, as timm does, if the model was asked for with another number of channels than the weights have; and a
    classifier that does not fit is left at its initialisation, with a warning, if it was asked for with another number
    of classes.

    Args:
        model: A zoo model on a real device.
        state: The checkpoint.
        rules: The family's rules.
        what: The checkpoint's name in error messages.
        source_classes: Number of classes that the weights are said to have; None if it is the model's. The file has the
            last word: a classifier that fits is loaded.
        source_chans: Number of input channels that the weights are said to have; None if it is the model's.
        head: Whether the model's classifier is wanted at all.

    Raises:
        ValueError: A key or shape does not fit; all of them are listed. Or a tensor is of another kind of numbers than
            the model's, or has numbers that the model's type cannot hold.
    """
    if any(p.is_meta for p in model.parameters()):
        raise ValueError(
            f"cannot load {what} into a model on the meta device; create it with device='cpu' or leave device out"
        )
    built, rules = model.state_dict(), tuple(rules)
    state = unwrapped(state, built, rules)
    _take_sizes(model, state, what)
    target = model.state_dict()
    if state.keys() == target.keys():
        rules = ()  # zoo's own layout, in which a name may be another's published one
    adapt = {}
    if source_chans not in (None, getattr(model, "in_chans", None)):
        adapt = {"stem.proj.weight": partial(_adapt_channels, source_chans)}
    fit = fit_of(state, target, rules, what, adapt)
    wrong = [key for key in fit.wrong() if key.startswith(HEAD)]
    theirs = fit.classes(model.num_classes)
    if isinstance(model.head, nn.Identity) or not head:
        fit = fit.without(HEAD)
    elif wrong and model.num_classes and source_classes not in (None, model.num_classes):
        warnings.warn(_head_starts_anew(fit, wrong, what, theirs, model.num_classes), stacklevel=2)
        fit = fit.without(HEAD)
        if any(value.shape != target[key].shape for key, value in built.items() if key.startswith(HEAD)):
            model.reset_classifier(model.num_classes)  # it has taken sizes of the file, and lost its values
            target = model.state_dict()
    found = fit.check(what, _remedy(fit, theirs, source_chans))
    _check_numbers(found, target, dict(model.named_parameters()), what)
    model.load_state_dict(target | found, strict=True)


def check_fit(model: nn.Module, state: Mapping[str, Tensor], what: str, *, head: bool = True) -> None:
    """Check that a checkpoint in zoo's own layout fits a model, by keys and shapes alone: both may be on meta.

    Args:
        model: A zoo model; modules that take the sizes of what they load do so.
        state: The checkpoint, e.g. of `zoo.weights.read_shapes`.
        what: The checkpoint's name in error messages.
        head: Whether the model's classifier has to fit too.

    Raises:
        ValueError: A key or shape does not fit; all of them are listed.
    """
    _take_sizes(model, state, what)
    fit = fit_of(state, model.state_dict(), (), what, {})
    fit = fit if head else fit.without(HEAD)
    fit.check(what, _remedy(fit, fit.classes(model.num_classes), None))


def load_alike(module: nn.Module, state: Mapping[str, Tensor], what: str, device: torch.device) -> None:
    """Load a checkpoint that has exactly the keys of a module on the meta device, which then is on a real one.

    Nothing is allocated before all of it fits: what a file says of a module is compared with what the file holds.

    Args:
        module: A module on the meta device whose state dict is all that it has.
        state: The checkpoint.
        what: The checkpoint's name in error messages.
        device: Where the module is put.

    Raises:
        ValueError: A key, a shape or a kind of numbers does not fit, as in `load_weights`.
    """
    target = module.state_dict()
    found = fit_of(state, target, (), what, {}).check(what)
    _check_numbers(found, target, dict(module.named_parameters()), what)
    module.to_empty(device=device)
    module.load_state_dict(found)


def _remedy(fit: Fit, classes: int | None, chans: int | None) -> str:
    """The arguments that would make what does not fit fit, where they can be told."""
    told = f", num_classes={classes}" if classes else ""
    origin, theirs, ours = fit.shapes.get("stem.proj.weight", ("", (), ()))
    if len(theirs) == len(ours) == 4 and theirs[1] != ours[1] and theirs[0] == ours[0]:
        told += f", in_chans={theirs[1]}"
    return told


def _check_numbers(
    found: Mapping[str, Tensor], target: Mapping[str, Tensor], parameters: Mapping[str, Tensor], what: str
) -> None:
    """Check that tensors hold the kind of numbers that a model's hold, and none that its type has no room for.

    Buffers may be of truth values or whole numbers: some were, in files of earlier versions.

    Raises:
        ValueError: One does not.
    """
    for key, value in found.items():
        ours, where = target[key].dtype, f"{what}: {some([key])}"
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


def _head_starts_anew(fit: Fit, wrong: Sequence[str], what: str, theirs: int | None, classes: int) -> str:
    """Which keys of the classifier do not fit, and why."""
    if theirs is not None:
        why = f"the file has {theirs} classes and the model {classes}. For the file's own, give num_classes={theirs}"
    elif set(wrong) <= set(fit.missing):
        why = f"the file has no classifier, and the model one of {classes} classes"
    else:
        why = f"it is of another kind than the model's, which has {classes} classes"
    return f"{what}: the classifier starts anew ({some(wrong)}), since {why}"


def unwrapped(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], rules: Iterable[Rule] = ()
) -> Mapping[str, Tensor]:
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


def _take_sizes(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Let modules follow that can change their size after they are built, such as a spline with a refined grid."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if not hasattr(module, "take_sizes"):
            continue
        own = module.state_dict()
        if all(prefix + key in state for key in own):
            try:
                module.take_sizes({key: state[prefix + key] for key in own})
            except (ValueError, RuntimeError, IndexError) as error:
                raise ValueError(f"{what}: the sizes of {name} cannot be taken: {printable(error, 300)}") from error


def _adapt_channels(chans: int, weight: Tensor, shape: torch.Size) -> Tensor:
    """A first convolution for another number of input channels than `chans`, where everything else fits."""
    if weight.ndim != 4 or tuple(weight.shape) != (shape[0], chans, *shape[2:]):
        return weight
    return adapt_input_conv(shape[1], weight.float(), base_chans=weight.shape[1]).to(weight.dtype)
