"""Weights that their authors publish where zoo does not fetch them, once downloaded, as a folder that opens."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm.models
import torch
from torch import Tensor, nn

from zoo.blocks.moe.experts.base import Experts
from zoo.build import Variant, assemble
from zoo.checks import printable, some
from zoo.hub import save_pretrained
from zoo.registry import family_of, resolve_cfg
from zoo.weights import WeightSource, natural_key, read_state_dict
from zoo.weights.jax_shards import is_index, is_part, read_jax_shards
from zoo.weights.rules import StateDict

SPLIT = r"\._moe_layer\.experts\."  # of Tutel: what each process has of its own
PACKED = (".zip", ".tar", ".tgz", ".gz")


def convert_files(files: Sequence[Path | str], name: str, folder: Path | str) -> nn.Module:
    """A model with the weights in files, by its family's rules, saved into a folder that `zoo.create_model` opens.

    Example:
        >>> import tempfile, zoo
        >>> place = Path(tempfile.mkdtemp())
        >>> torch.save(zoo.create_model("mixer_test").state_dict(), place / "theirs.pth")
        >>> _ = convert_files([place / "theirs.pth"], "mixer_test", place / "ours")
        >>> zoo.create_model(f"local-dir:{place / 'ours'}").num_classes
        10

    Args:
        files: The weights: one file, or the shards of one, joined by their keys. Of a model that was trained with
            Tutel, a file a process, whose experts are put together in the order of the files' numbers; of V-MoE the
            ``.index``, beside which its parts lie.
        name: The model, with a tag where it has several.
        folder: Where the model is saved.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is damaged or an archive, two have other values under one key, or they do not fit the model.
    """
    arch, tag = timm.models.split_model_name_tag(name)
    family, cfg = family_of(arch), resolve_cfg(arch, tag)
    variant = Variant(arch, family, family.arguments(arch), cfg)
    paths = sorted(map(Path, files), key=lambda path: natural_key(path.name))
    if any(map(is_index, paths)):
        paths = [path for path in paths if not is_part(path)]  # they are read with the index
    for path in paths:
        if is_part(path):
            raise ValueError(
                f"{printable(path)} is a part of a checkpoint of JAX; give its .index, which lies beside it"
            )
        if path.suffix.lower() in PACKED and not path.name.endswith(".pth.tar"):
            raise ValueError(f"{printable(path)} is an archive; unpack it, and give the files of weights in it")
    experts = {m.num_experts for m in assemble(variant, {"device": "meta"}).modules() if isinstance(m, Experts)}
    read = lambda path: read_jax_shards(path) if is_index(path) else read_state_dict(path)
    state = join({path: read(path) for path in paths}, max(experts, default=0))
    label = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    source = WeightSource(label, lambda: state, tuple(family.rules), classes=cfg.num_classes, chans=cfg.input_size[0])
    model = assemble(variant, {}, source)
    save_pretrained(model, folder)
    return model


def join(shards: Mapping[Path, StateDict], experts: int = 0) -> dict[str, Tensor]:
    """The keys of several files as those of one.

    Args:
        shards: The files, in order.
        experts: How many a mixture of the model has, for the files of processes that have some of them each, or a share
            of one.

    Raises:
        ValueError: Two files have other values under one key, or there are experts of no whole number.
    """
    found: dict[str, list[tuple[Path, Tensor]]] = defaultdict(list)
    for path, state in shards.items():
        for key, value in state.items():
            found[key].append((path, value))
    joined = {}
    for key, parts in found.items():
        (first, value), *others = parts
        if others and experts and re.search(SPLIT, key):
            joined[key] = _put_together(key, parts, experts)
            continue
        for path, other in others:
            if other.shape != value.shape or not torch.equal(other, value):
                raise ValueError(
                    f"{printable(first)} and {printable(path)} both have {some([key])}, with other values: they are no "
                    "shards of one checkpoint; give the files of one model"
                )
        joined[key] = value
    return joined


def _put_together(key: str, parts: Sequence[tuple[Path, Tensor]], experts: int) -> Tensor:
    """All experts of a mixture, of which each process has some, or a part of one along its first width."""
    values = [value for _, value in parts]
    rows = sum(value.shape[0] for value in values if value.ndim)
    if any(value.ndim < 2 or value.shape[1:] != values[0].shape[1:] for value in values) or rows % experts:
        raise ValueError(
            f"{len(values)} files, from {printable(parts[0][0])} to {printable(parts[-1][0])}, have {rows} parts of "
            f"{some([key])}, and the model has {experts} experts; give the file of every process, and of one model"
        )
    return torch.cat(values).reshape(experts, -1, *values[0].shape[2:])
