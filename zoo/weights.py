"""Weights: reading files safely, and rules that turn official checkpoint keys into zoo's, strict both ways."""

import argparse
import re
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv, load_state_dict_from_hf
from torch import Tensor, nn

# --- Rules ------------------------------------------------------------------------------------------------------------

Operation = Callable[[Tensor, torch.Size], Tensor]


@dataclass(frozen=True)
class Rule:
    """What becomes of the source keys that a pattern matches. Made by `rename`, `stack` and `drop`.

    A rule with `when` holds only for checkpoints that have a key which that pattern matches: a mark of their layout.
    """

    pattern: re.Pattern
    target: str | None = None
    operation: Operation | None = None
    dim: int | None = None
    reason: str | None = None
    when: re.Pattern | None = None
    order: tuple[str, ...] = ()
    zero: bool = False


def rename(pattern: str, target: str, operation: Operation | None = None, *, when: str | None = None) -> Rule:
    r"""Matching keys become `target` (``\1`` stands for a group), after an operation on the tensor.

    Example:
        >>> rules = [rename(r"^fc\.(.*)", r"head.\1")]
        >>> list(remap({"fc.bias": torch.zeros(2)}, {"head.bias": torch.zeros(2)}, rules))
        ['head.bias']
    """
    return Rule(re.compile(pattern), target, operation, when=None if when is None else re.compile(when))


def stack(
    pattern: str, target: str, dim: int = 0, operation: Operation | None = None, *, order: Sequence[str] = ()
) -> Rule:
    """All matching keys that give the same target are stacked along a new `dim`, in the order of their numbers.

    With `order` that is their order: the pattern's group ``part`` is one of its entries, and a key for each has to be
    there. An operation is applied to what was stacked.
    """
    return Rule(re.compile(pattern), target, operation, dim=dim, order=tuple(order))


def drop(pattern: str, reason: str, *, zero: bool = False) -> Rule:
    """Matching keys are left out. The reason is for the reader of the family's file.

    With `zero` they are left out only if all their values are 0; else they have no place.
    """
    return Rule(re.compile(pattern), reason=reason, zero=zero)


def reshape(x: Tensor, shape: torch.Size) -> Tensor:
    """Give the tensor the shape that the model has there."""
    return x.reshape(shape)


def transpose(x: Tensor, shape: torch.Size) -> Tensor:
    """Exchange the last two dimensions, as between Flax's kernels and torch's weights."""
    return x.transpose(-1, -2)


HEAD = "head."  # what the keys of a model's classifier begin with


@dataclass
class _Fit:
    """What came of a checkpoint's keys: the tensors found, and what does not fit, each by its key in the model."""

    found: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)  # what is said of the source's key
    missing: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[str, torch.Size, torch.Size]] = field(default_factory=dict)  # source's key, its shape, ours

    def without(self, prefix: str) -> "_Fit":
        """All but the keys that begin so."""
        kept = [{k: v for k, v in d.items() if not k.startswith(prefix)} for d in (self.found, self.extra, self.shapes)]
        return _Fit(kept[0], kept[1], [k for k in self.missing if not k.startswith(prefix)], kept[2])

    def wrong(self) -> dict[str, None]:
        """The keys that do not fit, in order."""
        return dict.fromkeys([*self.shapes, *self.missing, *self.extra])

    def classes(self, wanted: int) -> int | None:
        """The number of classes of the checkpoint's classifier, if that is what differs from the model's."""
        pairs = [zip(*shapes, strict=False) for key, (_, *shapes) in self.shapes.items() if key.startswith(HEAD)]
        return next((n for pair in pairs for n, m in pair if m == wanted != n), None)

    def check(self, what: str, remedy: str = "") -> dict[str, Tensor]:
        """The tensors, if everything fits; otherwise a ValueError that lists what does not."""
        if not self.wrong():
            return self.found
        lists = {
            "keys that the model has no place for": list(self.extra.values()),
            "keys that the model needs and the source lacks": self.missing,
            "shapes that differ": [
                f"{origin}: {tuple(theirs)} in the file, {tuple(ours)} in the model"
                for origin, theirs, ours in self.shapes.values()
            ],
        }
        told = "; ".join(
            f"{title} ({len(keys)}): {', '.join(keys[:8])}{', …' if len(keys) > 8 else ''}"
            for title, keys in lists.items()
            if keys
        )
        raise ValueError(
            f"{what} do not fit the model: {told}. Create the model with the arguments that the weights were made "
            f"with{remedy}, or choose other weights"
        )


def remap(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    rules: Iterable[Rule],
    what: str = "weights",
    *,
    adapt: Mapping[str, Operation] | None = None,
) -> dict[str, Tensor]:
    """Turn a checkpoint's keys into a model's.

    For each source key the first rule whose pattern matches applies; a key that no rule matches keeps its name.

    Args:
        source: The checkpoint.
        target: The model's state dict; only names and shapes are read.
        rules: In order of priority.
        what: The source's name in error messages.
        adapt: By target key, an operation for a tensor whose shape differs.

    Returns:
        A state dict with exactly the keys of `target`.

    Raises:
        ValueError: A source key has no place, a target stays unfilled, a target is filled twice, or a shape differs;
            all such keys are listed.
    """
    return _fit(source, target, rules, what, adapt or {}).check(what)


def _fit(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    rules: Iterable[Rule],
    what: str,
    adapt: Mapping[str, Operation],
) -> _Fit:
    """Apply the rules, and note what does not fit."""
    rules = [r for r in rules if r.when is None or any(r.when.search(key) for key in source)]
    fit, stacks = _Fit(), defaultdict(list)

    def put(key: str, value: Tensor, origin: str, operation: Operation | None = None) -> None:
        if key not in target:
            fit.extra[key] = origin if origin == key else f"{origin} (-> {key})"
            return
        if key in fit.found:
            raise ValueError(f"{what}: {origin} and another key both become {key}; the family's RULES are wrong")
        shape = target[key].shape
        try:
            if operation is not None:
                value = operation(value, shape)
            if value.shape != shape and key in adapt:
                value = adapt[key](value, shape)
        except (RuntimeError, IndexError):
            pass  # a tensor of another shape than the operation is for: it is listed with its own
        if value.shape != shape:
            fit.shapes[key] = (origin, value.shape, shape)
        fit.found[key] = value

    for key, value in source.items():
        rule = next((r for r in rules if r.pattern.search(key)), None)
        if rule is None or (rule.zero and value.any()):
            put(key, value, key)
        elif rule.target is None:
            continue
        elif rule.dim is None:
            put(rule.pattern.sub(rule.target, key), value, key, rule.operation)
        else:
            place = [rule.order.index(rule.pattern.search(key)["part"])] if rule.order else natural_key(key)
            stacks[rule.pattern.sub(rule.target, key), rule].append((place, key, value))
    for (key, rule), parts in stacks.items():
        if rule.order and len(parts) != len(rule.order):
            continue  # the target stays unfilled
        parts = sorted(parts, key=lambda part: part[0])
        values = [value for *_, value in parts]
        if odd := next((name for _, name, value in parts if value.shape != values[0].shape), None):
            raise ValueError(
                f"{what}: {parts[0][1]} and {odd} both belong to {key} and differ in shape; the file is not whole"
            )
        more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
        put(key, torch.stack(values, rule.dim), parts[0][1] + more, rule.operation)
    fit.missing = [key for key in target if key not in fit.found]
    return fit


def natural_key(key: str) -> list:
    """A sort key that puts 10 behind 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]


# --- Files ------------------------------------------------------------------------------------------------------------


# Under which a checkpoint may hold its weights. Averaged ones go first, as in timm: they are the ones to evaluate.
HOLDERS = ("state_dict_ema", "model_ema", "state_dict", "model")


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Read tensors from a ``.safetensors`` or ``.npz`` file, or from a ``.pth`` one without running anything in it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, corrupt, contains code, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error}); fetch or save it again") from error
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                return {key: torch.from_numpy(file[key]) for key in file.files}
        except (BadZipFile, zlib.error, OSError, ValueError, TypeError, EOFError) as error:
            raise ValueError(f"{path} is not a whole file of numpy arrays ({error}); fetch or save it again") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # in the checkpoints of timm's training, as `args`
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it is corrupt, or it holds objects other than tensors, which could run code when they "
            "are read. Get the weights as .safetensors, or convert the file yourself if you trust its source"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a whole PyTorch weight file ({error}); fetch or save it again") from error
    return take_state_dict(state, str(path))


def take_state_dict(checkpoint: object, what: str) -> dict[str, Tensor]:
    """The weights in a checkpoint: itself, or what it holds under the first of `HOLDERS`; averaged ones go first.

    Example:
        >>> plain, averaged = {"bias": torch.zeros(2)}, {"bias": torch.ones(2)}
        >>> take_state_dict({"epoch": 9, "state_dict": plain, "state_dict_ema": averaged}, "last.pth")
        {'bias': tensor([1., 1.])}

    Raises:
        ValueError: There is no mapping of names to tensors.
    """
    state, remedy = checkpoint, f"save model.state_dict(), alone or under one of the keys {', '.join(HOLDERS)}"
    for _ in HOLDERS:  # one may lie in another
        if isinstance(state, Mapping):
            state = next((state[key] for key in HOLDERS if isinstance(state.get(key), Mapping) and state[key]), state)
    if not isinstance(state, Mapping) or not state:
        told = "it is empty" if isinstance(state, Mapping) else f"it is of the type {type(state).__name__}"
        raise ValueError(f"{what} holds no mapping of names to tensors: {told}; {remedy}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{what} holds no mapping of names to tensors: {key!r} is of the type {type(value).__name__}; {remedy}"
            )
    return dict(state)


def fetch_state_dict(cfg: Mapping, name: str, cache_dir: Path | str | None = None) -> tuple[dict[str, Tensor], str]:
    """The tensors that a pretrained configuration points to, and a name of their source.

    Args:
        cfg: As timm's: ``state_dict``, ``file``, ``hf_hub_id`` (with ``hf_hub_filename``) or ``url``, in this order.
        name: The model's name, for error messages.
        cache_dir: Where downloads are kept; the Hub's and torch's own folders by default.

    Raises:
        ValueError: Nothing is published for the model, or it could not be fetched.
    """
    if cfg.get("state_dict"):
        return take_state_dict(cfg["state_dict"], "the given state dict"), "the given state dict"
    if cfg.get("file"):
        return read_state_dict(cfg["file"]), str(cfg["file"])
    hub_id, url = cfg.get("hf_hub_id"), cfg.get("url")
    if not hub_id and not url:
        raise ValueError(
            f"no weights are published for {name}; create it with pretrained=False, or name your own file by "
            'pretrained_cfg_overlay={"file": "weights.safetensors"}'
        )
    source = f"hf-hub:{hub_id}" if hub_id else url
    try:
        if hub_id:
            filename = {"filename": cfg["hf_hub_filename"]} if cfg.get("hf_hub_filename") else {}
            state = load_state_dict_from_hf(hub_id, **filename, weights_only=True, cache_dir=cache_dir)
            return take_state_dict(state, source), source
        folder = Path(cache_dir) if cache_dir else Path(torch.hub.get_dir()) / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / url.rsplit("/", 1)[-1]
        if not path.is_file():
            torch.hub.download_url_to_file(url, str(path), progress=False)
        return read_state_dict(path), source
    except ValueError:
        raise
    except Exception as error:  # whatever the network or the Hub's client raises
        raise ValueError(
            f"the weights of {name} could not be fetched from {source} ({type(error).__name__}: {error}). Without a "
            'network, name a file by pretrained_cfg_overlay={"file": "weights.safetensors"}'
        ) from error


# --- Into a model -----------------------------------------------------------------------------------------------------


# What wrappers put before the keys of the model inside: DataParallel and DDP, torch.compile, Lightning.
WRAPPERS = ("module.", "_orig_mod.", "model.")


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    rules: Iterable[Rule],
    what: str,
    *,
    source_classes: int | None = None,
    head: bool = True,
) -> None:
    """Load a checkpoint into a model, key by key and shape by shape.

    Three differences are bridged: prefixes of wrappers that all keys share are taken off; a first convolution made for
    another number of channels is adapted, as timm does; and a classifier that does not fit is left at its
    initialisation, with a warning, if the model was asked for with another number of classes than the weights have.

    Args:
        model: A zoo model on a real device.
        state: The checkpoint.
        rules: The family's rules.
        what: The checkpoint's name in error messages.
        source_classes: Number of classes that the weights are said to have; None if it is the model's. The file has the
            last word: a classifier that fits is loaded.
        head: Whether the model's classifier is wanted at all.

    Raises:
        ValueError: A key or shape does not fit; all of them are listed.
    """
    if any(p.is_meta for p in model.parameters()):
        raise ValueError(
            f"cannot load {what} into a model on the meta device; create it with device='cpu' or leave device out"
        )
    built, rules = model.state_dict(), tuple(rules)
    state = unwrapped(state, built, rules)
    _take_sizes(model, state)
    target = model.state_dict()
    if state.keys() == target.keys():
        rules = ()  # zoo's own layout, in which a name may be another's published one
    fit = _fit(state, target, rules, what, {"stem.proj.weight": _adapt_channels})
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
    model.load_state_dict(target | fit.check(what, f", num_classes={theirs}" if theirs else ""), strict=True)


def _head_starts_anew(fit: _Fit, wrong: Sequence[str], what: str, theirs: int | None, classes: int) -> str:
    """Which keys of the classifier do not fit, and why."""
    if theirs is not None:
        why = f"the file has {theirs} classes and the model {classes}. For the file's own, give num_classes={theirs}"
    elif set(wrong) <= set(fit.missing):
        why = f"the file has no classifier, and the model one of {classes} classes"
    else:
        why = f"it is of another kind than the model's, which has {classes} classes"
    return f"{what}: the classifier starts anew ({', '.join(wrong)}), since {why}"


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


def _take_sizes(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let modules follow that can change their size after they are built, such as a spline with a refined grid."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if not hasattr(module, "take_sizes"):
            continue
        own = module.state_dict()
        if all(prefix + key in state for key in own):
            module.take_sizes({key: state[prefix + key] for key in own})


def _adapt_channels(weight: Tensor, shape: torch.Size) -> Tensor:
    """A first convolution for another number of input channels, where everything else fits."""
    if weight.ndim != 4 or (weight.shape[0], *weight.shape[2:]) != (shape[0], *shape[2:]):
        return weight
    return adapt_input_conv(shape[1], weight.float(), base_chans=weight.shape[1]).to(weight.dtype)
