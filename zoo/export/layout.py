"""Exported programs with as few transpositions as they can do with.

zoo's features have their channels last, and convolutions and poolings see them through a permutation. In torch that
costs nothing, since the memory stays as it is; other runtimes copy. So the permutations are moved down past whatever
treats every element alike, until one meets another that undoes it, and both go.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from zoo.blocks.kernels import private

aten = torch.ops.aten
TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # where the channels of a batch of images go

ELEMENTWISE = {  # what does the same to every element, wherever it lies
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.addcmul.default),
    *(aten.gelu.default, aten.relu.default, aten.silu.default, aten.sigmoid.default, aten.tanh.default),
    *(aten.pow.Tensor_Scalar, aten.square.default, aten.neg.default, aten.exp.default, aten.clamp.default),
    *(aten.alias.default, aten.clone.default, aten.contiguous.default, aten.dropout.default),
}
RESHAPES = {aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unsqueeze.default}
ONE_GROUP = [1, None, None]  # of `group_norm`: over the whole sample, without weight and bias


def without_transpositions(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program, changed in place, with permutations that undo each other taken out.

    Linear maps of what has its channels first become convolutions of kernel 1; norms over whole samples take it as it
    comes. Everything else meets its inputs in the layout that it had, and the outputs stay what they were. A program
    that writes into tensors stays as it is.

    Example:
        >>> class Pooled(torch.nn.Module):
        ...     def forward(self, x):
        ...         y = torch.nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), 3, 1).permute(0, 2, 3, 1)
        ...         return y.relu().permute(0, 3, 1, 2).mean((2, 3))
        >>> program = torch.export.export(Pooled(), (torch.randn(1, 8, 8, 4),))
        >>> sum(node.target is aten.permute.default for node in without_transpositions(program).graph.nodes)
        1
    """
    graph = program.graph_module.graph
    if any(_changes_in_place(node) for node in graph.nodes):
        return program
    first: dict[fx.Node, fx.Node] = {}  # for nodes with channels last: one of the same values with channels first
    narrow = {_narrower(node) for node in graph.nodes if _permutes(node, TO_FIRST)}
    for node in list(graph.nodes):
        if node in narrow:
            with graph.inserting_before(node):
                source = node.args[0]
                first[source] = graph.call_function(aten.permute.default, (source, TO_FIRST))
                first[source].meta["val"] = source.meta["val"].permute(TO_FIRST)
        if node.op != "call_function" or any(user.op == "output" for user in node.users):
            continue
        if _permutes(node, TO_LAST):
            first[node] = node.args[0]
        elif _permutes(node, TO_FIRST) and node.args[0] in first:
            node.replace_all_uses_with(first[node.args[0]])
        else:
            with graph.inserting_before(node):
                moved = next(filter(None, (rule(node, first) for rule in RULES)), None)
                if moved is not None:
                    moved.meta["val"] = node.meta["val"].permute(TO_FIRST)
                    back = graph.call_function(aten.permute.default, (moved, TO_LAST))
                    back.meta["val"] = node.meta["val"]
                    first[back] = moved
                    node.replace_all_uses_with(back)
                    graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _permutes(node: fx.Node, dims: list[int]) -> bool:
    return node.target is aten.permute.default and [dim % len(dims) for dim in node.args[1]] == dims


def _narrower(node: fx.Node) -> fx.Node | None:
    """The linear map that widens what a permutation then moves: before it there is less to move. None without one."""
    source = node.args[0]
    while source.target in ELEMENTWISE and len(source.users) == 1:
        inputs = [each for each in source.all_input_nodes if _same(_shape(each), _shape(source))]
        if len(inputs) != 1:
            return None
        (source,) = inputs
    if source.target is not aten.linear.default or len(source.users) != 1 or len(_shape(source)) != 4:
        return None
    wide, narrow = _shape(source.args[1]) if len(_shape(source.args[1])) == 2 else (0, 0)
    return source if wide > narrow else None


def _elementwise(node: fx.Node, first: dict[fx.Node, fx.Node]) -> fx.Node | None:
    """The same of inputs with channels first, where all have such; others may be numbers, or one a channel."""
    if node.target not in ELEMENTWISE or not any(arg in first for arg in node.all_input_nodes):
        return None
    args: list[Any] = []
    for arg in node.args:
        if not isinstance(arg, fx.Node) or _shape(arg) in ((), (1,)):
            args.append(arg)
        elif arg in first and _same(_shape(arg), _shape(node)):
            args.append(first[arg])
        elif _same(_shape(arg), _shape(node)[-1:]):
            args.append(_reshaped(arg, [-1, 1, 1]))
        else:
            return None
    kwargs = {name: value for name, value in node.kwargs.items() if name != "memory_format"}
    return node.graph.call_function(node.target, tuple(args), kwargs)


def _linear(node: fx.Node, first: dict[fx.Node, fx.Node]) -> fx.Node | None:
    """A linear map as a convolution of kernel 1."""
    if node.target is not aten.linear.default or node.args[0] not in first:
        return None
    x, weight, *bias = node.args
    if len(_shape(weight)) != 2:
        return None
    kernel = _reshaped(weight, [*_shape(weight), 1, 1])
    return node.graph.call_function(aten.conv2d.default, (first[x], kernel, *bias))


def _sample_norm(node: fx.Node, first: dict[fx.Node, fx.Node]) -> fx.Node | None:
    """A norm over whole samples, in rows (see `zoo.blocks.kernels.norms`), given back the shape of its input."""
    norm = node.args[0] if node.target in RESHAPES else None
    if not isinstance(norm, fx.Node) or norm.target is not aten.group_norm.default or [*norm.args[1:4]] != ONE_GROUP:
        return None
    source = norm.args[0]
    while source not in first and source.target in RESHAPES:
        source = source.args[0]
    by_sample = source in first and _same(_shape(source)[:1], _shape(norm.args[0])[:1])
    if not by_sample or not _same(_shape(source), _shape(node)):
        return None
    return node.graph.call_function(aten.group_norm.default, (first[source], *norm.args[1:]))


def _kept_shape(node: fx.Node, first: dict[fx.Node, fx.Node]) -> fx.Node | None:
    """A change of shape that changes nothing."""
    source = node.args[0] if node.target in RESHAPES else None
    if source not in first or not _same(_shape(source), _shape(node)):
        return None
    return node.graph.call_function(aten.alias.default, (first[source],))


RULES: tuple[Callable[[fx.Node, dict[fx.Node, fx.Node]], fx.Node | None], ...] = (
    _elementwise,
    _linear,
    _sample_norm,
    _kept_shape,
)


def _shape(node: fx.Node) -> tuple:
    """The shape of what a node gives; of one that gives no tensor, as of a single number."""
    return tuple(getattr(node.meta.get("val"), "shape", ()))


def _same(a: tuple, b: tuple) -> bool:
    """Whether shapes are the same for all sizes: to ask a symbol whether it equals a number would settle it."""
    return len(a) == len(b) and all(str(x) == str(y) for x, y in zip(a, b, strict=True))


def _changes_in_place(node: fx.Node) -> bool:
    """Whether an operator writes into its inputs: then what is moved past it is something else."""
    return getattr(getattr(node.target, private.SCHEMA, None), "is_mutable", False)


def _reshaped(node: fx.Node, shape: list) -> fx.Node:
    new = node.graph.call_function(aten.reshape.default, (node, shape))
    new.meta["val"] = node.meta["val"].reshape(shape)
    return new
