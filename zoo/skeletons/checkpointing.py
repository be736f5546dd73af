"""Running a block, with its activations kept for the backward pass or computed again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from timm.layers import use_reentrant_ckpt
from timm.models import checkpoint
from torch import Tensor, nn

from zoo.blocks.base import Aux, declared
from zoo.blocks.kernels import guard, private
from zoo.blocks.mixer import trait


def run_block(block: nn.Module, x: Tensor, checkpointing: bool, keywords: Mapping[str, Any]) -> tuple[Tensor, Aux]:
    """The output and the auxiliary outputs of a block; with `checkpointing` its activations are not kept.

    Args:
        block: A block, or a stage of blocks.
        x: Its input.
        checkpointing: Compute the activations again in the backward pass.
        keywords: Those of the model's call; the block gets those that it declares.
    """
    keywords = declared(block, keywords)
    y = _checkpointed(block, x, keywords) if checkpointing and torch.is_grad_enabled() else block(x, **keywords)
    return y if trait(block, "has_aux") else (y, {})


def _checkpointed(level: nn.Module, x: Tensor, keywords: Mapping[str, Any]):
    """Run a level under activation checkpointing, by the kind that timm's setting chooses."""
    if not use_reentrant_ckpt():
        run = partial(level, **keywords) if keywords else level  # torch's function has keywords of its own
        norms = [m for m in level.modules() if isinstance(m, private.BatchNorm)]
        if not norms or guard.recording():
            return checkpoint(run, x)
        return checkpoint(run, x, context_fn=lambda: (nullcontext(), _frozen(norms)))
    if not keywords and not trait(level, "has_aux"):
        return checkpoint(level, x)

    # The reentrant kind tracks only tensors at the top of what a function takes and returns; inside a mapping they lose
    # their graph.
    inputs, layout = private.tree_flatten(dict(keywords))
    structure = []

    def flat(x: Tensor, *inputs) -> tuple[Tensor, ...]:
        leaves, spec = private.tree_flatten(level(x, **private.tree_unflatten(list(inputs), layout)))
        structure[:] = [spec]
        return tuple(leaves)

    leaves = checkpoint(flat, x, *inputs)
    return private.tree_unflatten(list(leaves), structure[0])


@contextmanager
def _frozen(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Batch norms that leave their statistics alone: the second forward pass must not count a batch twice."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
