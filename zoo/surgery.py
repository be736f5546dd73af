"""Surgery on the mixtures of experts of a model: removing experts, adding experts.

Both change a model in place, its config too, so that it saves and loads as what it has become. Parameters are
exchanged: build the optimizer afterwards.
"""

import inspect
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from zoo.blocks.base import MetaBlock
from zoo.blocks.channel.moe.dispatch import Dropless
from zoo.blocks.channel.moe.layer import MoE
from zoo.blocks.channel.moe.record import Batches, Choices, choices_of, pairs
from zoo.blocks.channel.moe.routers.remap import Remap
from zoo.blocks.channel.moe.routers.sigmoid import Sigmoid
from zoo.blocks.channel.moe.routers.top_k import TopK
from zoo.models.model import Model
from zoo.slots import Slot, build_block, parse_slot

Places = int | Sequence[int] | None


# --- Fewer experts ----------------------------------------------------------------------------------------------------


def prune_experts(
    model: nn.Module, batches: Batches, *, at: Places = None, every: int | None = None
) -> dict[int, list[int]]:
    """Remove the experts that no token of a data set reaches; the logits on these data stay what they were.

    Where a token's choices and weights do not depend on experts that it does not choose (`top_k` with the softmax after
    the choice, `sigmoid`), the router forgets them, and tokens of other data that would have chosen one take the next.
    Any other router keeps its logits, and such tokens do without that choice (see `Remap`). Where the samples of a
    batch compete for experts, "these data" are these batches.

    Args:
        model: A model of `zoo.create_model`; it runs in eval mode and is changed in place.
        batches: Inputs; or a list or loader of them, or of tuples that begin with them.
        at, every: Blocks, as in `zoo.upcycle`; by default all with a mixture.

    Returns:
        For each block from which experts were removed, their numbers.

    Example:
        >>> import zoo
        >>> model = zoo.create_model("vit_test", channel_mixer={"at": {-1: "moe(num_experts=8, top_k=1)"}})
        >>> removed = prune_experts(model, torch.randn(1, 3, 32, 32))
        >>> model.blocks[2].channel_mixer.num_experts == 8 - len(removed.get(2, []))
        True

    Source: zoo's own rule.
    Differs: nothing to differ from.

    Raises:
        TypeError: It is no model of zoo.
        ValueError: Choices were dropped for want of room, which depends on the number of experts; there is no data; or
            a block is not there or has no mixture. The model is as it was.
    """
    found, reached = _mixtures(model, at, every), {}
    for inputs, _ in pairs(batches):
        seen = choices_of(model, inputs)
        for i, (name, _) in found.items():
            choices = seen[name]
            if choices.dropped:
                raise ValueError(
                    f"block {i} dropped choices of these data, and fewer experts would drop others; give its dispatch "
                    "a larger eval_factor, or dropless"
                )
            counts = choices.counts(len(inputs)).sum(0)
            reached[i] = counts + reached.get(i, 0)
    removed = {}
    for i, counts in reached.items():
        left = counts.nonzero().flatten().tolist()
        if 0 < len(left) < len(counts):
            removed[i] = sorted(set(range(len(counts))) - set(left))
            _remove(model, i, found[i][1], left)
    return removed


def _remove(model: Model, i: int, mixture: MoE, left: list[int]) -> None:
    """Keep only these experts of a block."""
    slot, scored = model.config["channel_mixer"][i], mixture.num_experts
    options = {**slot.options, "num_experts": len(left)}
    if not _forget(mixture.router, left):
        router = Slot("remap", {"router": str(_router_slot(slot)), "scored": scored, "kept": tuple(left)})
        mixture.router = _remap(model, i, router, len(left), mixture.router)
        options["router"] = str(router)
    _set_experts(model, i, mixture, left, options)


def _forget(router: nn.Module, left: list[int]) -> bool:
    """Take all experts but these out of a router, if that changes nothing for tokens that chose among these."""
    if type(router) is not Sigmoid and not (type(router) is TopK and router.softmax == "after"):
        return False
    gate = router.gate
    gate.weight = nn.Parameter(gate.weight.detach()[left].clone(), gate.weight.requires_grad)
    router.num_experts = gate.out_features = len(left)
    if isinstance(router, Sigmoid):
        router.bias = router.bias[left].clone()
    return True


# --- More experts -----------------------------------------------------------------------------------------------------


def add_expert(
    model: nn.Module, x: Tensor, *, of: int | None = None, at: Places = None, every: int | None = None
) -> dict[int, int]:
    """Add an expert to mixtures by splitting the one with the most tokens; the logits stay what they were.

    The new expert is a copy of the other, and takes those of its tokens that lie on one side of a plane: through the
    mean of the tokens that chose the other, across the direction in which these vary most. The router goes on as before
    and does not learn which of the two; both are in use at once, and in training each learns from its own tokens.

    Args:
        model: A model of `zoo.create_model`; it runs in eval mode and is changed in place.
        x: Inputs, of which the tokens are taken.
        of: The expert to split; by default, in each mixture, the one that the most tokens of `x` choose.
        at, every: Blocks, as in `zoo.upcycle`; by default all with a mixture.

    Returns:
        For each block the expert that was split. The new one is the last.

    Example:
        >>> import zoo
        >>> model = zoo.create_model("vit_test", channel_mixer={"at": {-1: "moe(num_experts=4)"}})
        >>> add_expert(model, torch.randn(2, 3, 32, 32), of=1), model.blocks[2].channel_mixer.num_experts
        ({2: 1}, 5)

    Source: the plane: Boley, "Principal Direction Divisive Partitioning" (Data Mining and Knowledge Discovery 2, 1998);
        that copies of an expert leave a network as it was: Chen et al., "Net2Net" (arXiv 1511.05641).
    Differs: zoo's own combination.

    Raises:
        TypeError: It is no model of zoo.
        ValueError: Choices may be dropped, an expert has fewer than two tokens, or a block is not there or has no
            mixture. The model is as it was.
    """
    found, planes, seen = _mixtures(model, at, every), {}, choices_of(model, x)
    for i, (name, mixture) in found.items():
        if not isinstance(mixture.dispatch, Dropless):
            raise ValueError(
                f"block {i} may drop choices, and more experts would drop others; make its dispatch dropless"
            )
        planes[i] = _plane(seen[name], of, i)
    for i, (source, plane, offset) in planes.items():
        mixture, slot = found[i][1], model.config["channel_mixer"][i]
        old, named, count = mixture.router, _router_slot(slot), mixture.num_experts + 1
        options = named.options if named.name == "remap" else {"router": str(named)}
        router = Slot("remap", {**options, "split": (*options.get("split", ()), source)})
        mixture.router = new = _remap(model, i, router, count, old.router if isinstance(old, Remap) else old)
        if isinstance(old, Remap) and old.split:
            new.planes[:-1], new.offsets[:-1] = old.planes, old.offsets
        new.planes[-1], new.offsets[-1] = plane, offset
        options = {**slot.options, "num_experts": count, "router": str(router)}
        _set_experts(model, i, mixture, [*range(count - 1), source], options)
    return {i: source for i, (source, _, _) in planes.items()}


def _plane(choices: Choices, of: int | None, block: int) -> tuple[int, Tensor, Tensor]:
    """The expert to split, and the plane through the mean of its tokens across their principal direction."""
    counts = choices.counts(1)[0]
    if of is not None and not 0 <= of < len(counts):
        raise ValueError(f"block {block} has no expert {of}; it has 0 to {len(counts) - 1}")
    source = int(counts.argmax()) if of is None else of
    tokens = choices.tokens[(choices.experts == source).any(1)].float()
    if len(tokens) < 2:
        raise ValueError(f"expert {source} of block {block} got {len(tokens)} tokens of x; it takes 2 to split them")
    mean = tokens.mean(0)
    centred = tokens - mean
    direction = torch.linalg.eigh(centred.t() @ centred).eigenvectors[:, -1]
    return source, direction, mean @ direction


# --- Blocks, slots and routers ----------------------------------------------------------------------------------------


def blocks_of_model(model: nn.Module) -> list[MetaBlock]:
    """The blocks of a model, in the order of its slots."""
    if not isinstance(model, Model):
        raise TypeError(
            f"a model of zoo.create_model is needed, not a {type(model).__name__}; for one wrapped for features, "
            "compiled or distributed, give the model inside it"
        )
    blocks = list(_outermost(model))
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no blocks with channel mixers")
    return blocks


def _outermost(module: nn.Module) -> Iterator[MetaBlock]:
    """The blocks below a module, without those that a mixer has within."""
    for child in module.children():
        if isinstance(child, MetaBlock):
            yield child
        else:
            yield from _outermost(child)


def _mixtures(model: nn.Module, at: Places, every: int | None) -> dict[int, tuple[str, MoE]]:
    """The mixtures of the blocks that are asked for, by the block's index, each with its name."""
    mixers = [block.channel_mixer for block in blocks_of_model(model)]
    sparse = [i for i, mixer in enumerate(mixers) if isinstance(mixer, MoE)]
    names = {module: name for name, module in model.named_modules()}
    chosen = {
        i: (names[mixers[i]], mixers[i]) for i in choose_blocks(len(mixers), at, every, sparse, "a mixture of experts")
    }
    for i, (_, mixture) in chosen.items():
        slot = model.config["channel_mixer"][i]
        if slot.name is None or _router_slot(slot).name is None:
            raise ValueError(
                f"the mixture of block {i}, or its router, was given as a class; register it and give its name"
            )
        if mixture.experts.exchange is not None:
            raise ValueError(f"the experts of block {i} are split over processes; save the model, and load it in one")
    return chosen


def choose_blocks(depth: int, at: Places, every: int | None, able: list[int], what: str) -> list[int]:
    """The indices of the blocks that are asked for, all of which must be among those that are able."""
    if at is None and every is None:
        if not able:
            raise ValueError(f"no block of the model has {what}")
        return able
    places = [] if at is None else list(at) if isinstance(at, Iterable) else [at]
    for place in places:
        if not -depth <= place < depth:
            raise ValueError(f"at={at} is outside the model's {depth} blocks")
    if every is not None and not 1 <= every <= depth:
        raise ValueError(f"every={every} is not from 1 to the model's {depth} blocks")
    chosen = {place % depth for place in places} | set(range(depth)[every - 1 :: every] if every else ())
    if chosen - set(able):
        raise ValueError(f"blocks {sorted(chosen - set(able))} do not have {what}; those that have: {able}")
    return sorted(chosen)


def block_widths(model: Model) -> list[int]:
    """The number of channels of each block."""
    if "dims" not in model.config:
        return [model.config["dim"]] * model.config["depth"]
    return [dim for dim, depth in zip(model.config["dims"], model.config["depths"], strict=True) for _ in range(depth)]


def _router_slot(slot: Slot) -> Slot:
    return parse_slot(slot.options.get("router", inspect.signature(MoE).parameters["router"].default))


def _remap(model: Model, i: int, slot: Slot, num_experts: int, inner: nn.Module) -> Remap:
    """A `Remap` by its slot around a router."""
    like, width = next(model.parameters()), block_widths(model)[i]
    made = build_block("router", slot, width, num_experts, inner.top_k, device=like.device, dtype=like.dtype)
    made.router = inner
    return made.train(inner.training)


def _set_experts(model: Model, i: int, mixture: MoE, chosen: list[int], options: dict) -> None:
    """Keep, or copy, experts by their numbers, and note the block's new slot."""
    mixture.experts.keep(chosen)
    mixture.experts.active_fraction = mixture.router.active / mixture.num_experts
    experts = options.get("experts")
    if isinstance(experts, (list, tuple)):
        options["experts"] = [experts[k % len(experts)] for k in chosen]
    model.config["channel_mixer"][i] = Slot("moe", options)
