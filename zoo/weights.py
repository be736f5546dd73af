"""Weights: reading files safely, and rules that turn official checkpoint keys into zoo's, strict both ways."""

import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv, load_state_dict_from_hf
from torch import Tensor, nn

# --- Rules ------------------------------------------------------------------------------------------------------------

Operation = Callable[[Tensor, torch.Size], Tensor]


@dataclass(frozen=True)
class Rule:
    """What becomes of the source keys that a pattern matches. Made by `rename`, `split`, `stack` and `drop`.

    A rule with `when` holds only for checkpoints that have a key which that pattern matches: a mark of their layout.
    """

    pattern: re.Pattern
    targets: tuple[str, ...] = ()
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
    return Rule(re.compile(pattern), (target,), operation, when=None if when is None else re.compile(when))


def split(pattern: str, targets: Sequence[str], dim: int = 0) -> Rule:
    """Matching keys are cut along `dim` into the targets, each of the size that the model has there."""
    return Rule(re.compile(pattern), tuple(targets), dim=dim)


def stack(
    pattern: str, target: str, dim: int = 0, operation: Operation | None = None, *, order: Sequence[str] = ()
) -> Rule:
    """All matching keys that give the same target are stacked along a new `dim`, in the order of their numbers.

    With `order` that is their order: the pattern's group ``part`` is one of its entries, and a key for each has to be
    there. An operation is applied to what was stacked.
    """
    return Rule(re.compile(pattern), (target,), operation, dim=dim, order=tuple(order))


def drop(pattern: str, reason: str, *, zero: bool = False) -> Rule:
    """Matching keys are left out. The reason is for the reader of the family's file.

    With `zero` they are left out only if all their values are 0; else they have no place.
    """
    return Rule(re.compile(pattern), reason=reason, zero=zero)


def squeeze(x: Tensor, shape: torch.Size) -> Tensor:
    """Remove all dimensions of one."""
    return x.squeeze()


def reshape(x: Tensor, shape: torch.Size) -> Tensor:
    """Give the tensor the shape that the model has there."""
    return x.reshape(shape)


def transpose(x: Tensor, shape: torch.Size) -> Tensor:
    """Exchange the last two dimensions, as between Flax's kernels and torch's weights."""
    return x.transpose(-1, -2)


def tile(x: Tensor, shape: torch.Size) -> Tensor:
    """Repeat a tensor along new leading dimensions, as from a dense layer to the experts of a sparse one."""
    return x.expand(shape).clone()


def resample(x: Tensor, shape: torch.Size) -> Tensor:
    """Resample positions ``(1, N, C)`` from one square grid to another (no prefix tokens)."""
    side = int(shape[1] ** 0.5)
    return resample_abs_pos_embed(x, [side, side], num_prefix_tokens=0)


def remap(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    rules: Iterable[Rule],
    what: str = "weights",
    *,
    adapt: Mapping[str, Operation] | None = None,
    skip: str | None = None,
) -> dict[str, Tensor]:
    """Turn a checkpoint's keys into a model's.

    For each source key the first rule whose pattern matches applies; a key that no rule matches keeps its name.

    Args:
        source: The checkpoint.
        target: The model's state dict; only names and shapes are read.
        rules: In order of priority.
        what: The source's name in error messages.
        adapt: By target key, an operation for a tensor whose shape differs.
        skip: Prefix of target keys that are to stay as they are; what the source has for them is left out.

    Returns:
        A state dict with exactly the keys of `target` that do not begin with `skip`.

    Raises:
        ValueError: A source key has no place, a target stays unfilled, a target is filled twice, or a shape differs;
            all such keys are listed.
    """
    rules = [r for r in rules if r.when is None or any(r.when.search(key) for key in source)]
    adapt, result, stacks = adapt or {}, {}, defaultdict(list)
    extra, shapes = [], []

    def skipped(key: str) -> bool:
        return skip is not None and key.startswith(skip)

    def put(key: str, value: Tensor, origin: str, operation: Operation | None = None) -> None:
        if skipped(key):
            return
        if key not in target:
            extra.append(origin if origin == key else f"{origin} (-> {key})")
            return
        if key in result:
            raise ValueError(f"{what}: {origin} and another key both become {key}; the family's RULES are wrong")
        shape = target[key].shape
        if operation is not None:
            value = operation(value, shape)
        if value.shape != shape and key in adapt:
            value = adapt[key](value, shape)
        if value.shape != shape:
            shapes.append(f"{origin}: {tuple(value.shape)} in the file, {tuple(shape)} in the model")
        result[key] = value

    for key, value in source.items():
        rule = next((r for r in rules if r.pattern.search(key)), None)
        if rule is None or (rule.zero and value.any()):
            put(key, value, key)
        elif not rule.targets:
            continue
        elif rule.dim is None:
            put(rule.pattern.sub(rule.targets[0], key), value, key, rule.operation)
        elif len(rule.targets) == 1:
            place = [rule.order.index(rule.pattern.search(key)["part"])] if rule.order else natural_key(key)
            stacks[rule.pattern.sub(rule.targets[0], key), rule].append((place, value))
        else:
            names = [rule.pattern.sub(t, key) for t in rule.targets]
            if all(name in target for name in names):
                parts = value.split([target[name].shape[rule.dim] for name in names], rule.dim)
                for name, part in zip(names, parts, strict=True):
                    put(name, part, key)
            else:
                extra.append(f"{key} (-> {', '.join(names)})")
    for (key, rule), parts in stacks.items():
        if rule.order and len(parts) != len(rule.order):
            continue  # the target stays unfilled
        values = [value for _, value in sorted(parts, key=lambda part: part[0])]
        put(key, torch.stack(values, rule.dim), f"{len(parts)} keys", rule.operation)
    missing = [key for key in target if key not in result and not skipped(key)]
    if extra or missing or shapes:
        lists = {
            "keys that the model has no place for": extra,
            "keys that the model needs and the source lacks": missing,
            "shapes that differ": shapes,
        }
        told = "; ".join(
            f"{title} ({len(keys)}): {', '.join(keys[:8])}{', …' if len(keys) > 8 else ''}"
            for title, keys in lists.items()
            if keys
        )
        raise ValueError(
            f"{what} do not fit the model: {told}. Create the model with the arguments that the weights were made "
            "with, or choose other weights"
        )
    return result


def natural_key(key: str) -> list:
    """A sort key that puts 10 behind 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]


# --- Files ------------------------------------------------------------------------------------------------------------


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Read tensors from a ``.safetensors`` or ``.npz`` file, or from a ``.pth`` one without running anything in it.

    A mapping that holds the weights under ``state_dict``, ``model`` or ``model_ema`` is opened.

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
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it is corrupt, or it holds objects other than tensors, which could run code when they "
            "are read. Get the weights as .safetensors, or convert the file yourself if you trust its source"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a whole PyTorch weight file ({error}); fetch or save it again") from error
    for key in ("state_dict", "model", "model_ema"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no mapping of names to tensors")
    return state


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
        return dict(cfg["state_dict"]), "the given state dict"
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
            return load_state_dict_from_hf(hub_id, **filename, weights_only=True, cache_dir=cache_dir), source
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


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    rules: Iterable[Rule],
    what: str,
    *,
    source_classes: int | None = None,
) -> None:
    """Load a checkpoint into a model, key by key and shape by shape.

    Two differences are bridged, as timm does: a first convolution made for another number of channels is adapted, and a
    classifier for another number of classes is left at its initialisation.

    Args:
        model: A zoo model on a real device.
        state: The checkpoint.
        rules: The family's rules.
        what: The checkpoint's name in error messages.
        source_classes: Number of classes of the checkpoint's classifier; None if it is the model's.

    Raises:
        ValueError: A key or shape does not fit; all of them are listed.
    """
    if any(p.is_meta for p in model.parameters()):
        raise ValueError(
            f"cannot load {what} into a model on the meta device; create it with device='cpu' or leave device out"
        )
    _take_sizes(model, state)
    target = model.state_dict()
    other_classes = source_classes is not None and source_classes != model.num_classes
    skip = "head." if other_classes or isinstance(model.head, nn.Identity) else None
    if state.keys() == target.keys():
        rules = ()  # zoo's own layout, in which a name may be another's published one
    found = remap(state, target, rules, what, adapt={"stem.proj.weight": _adapt_channels}, skip=skip)
    model.load_state_dict(target | found, strict=True)


def _take_sizes(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let modules follow that can change their size after they are built, such as a spline with a refined grid."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if hasattr(module, "take_sizes") and all(prefix + key in state for key in module.state_dict()):
            module.take_sizes({key: state[prefix + key] for key in module.state_dict()})


def _adapt_channels(weight: Tensor, shape: torch.Size) -> Tensor:
    """A first convolution for another number of input channels, where everything else fits."""
    if weight.ndim != 4 or (weight.shape[0], *weight.shape[2:]) != (shape[0], *shape[2:]):
        return weight
    return adapt_input_conv(shape[1], weight.float(), base_chans=weight.shape[1]).to(weight.dtype)
