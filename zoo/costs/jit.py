"""Costs of a model by fvcore: the model is traced by torch.jit, and each node of the graph has a rule."""

import warnings
from collections import Counter
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from zoo.blocks.kernels import private
from zoo.costs.counts import Counts, short_name
from zoo.costs.inputs import Call
from zoo.costs.rules import NO_ARITHMETIC, RULES, Rule

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing fvcore compiles two loss functions by the deprecated torch.jit.script
    from fvcore.nn.jit_analysis import JitModelAnalysis


def trace(twin: nn.Module, call: Call) -> Counts:
    """What a model costs, which `zoo.costs.twin.twin_of` made, called with tensors on its device.

    Raises:
        TypeError: It is called with arguments by name, which fvcore does not hand on.
    """
    if call.keywords:
        raise TypeError("torch.jit traces no arguments by name")
    on_meta = call.args[0].is_meta
    with torch.no_grad(), private.MetaConvolutions() if on_meta and private.MetaConvolutions else nullcontext():
        analysis = _MacAnalysis(twin, call.args)
        by_module, by_operator = analysis.by_module(), analysis.by_operator()
        uncounted = Counter()
        for name, count in analysis.unsupported_ops().items():
            uncounted[short_name(name)] += count
    return Counts(by_module, Counter({name: macs for name, macs in by_operator.items() if macs}), uncounted)


class _MacAnalysis(JitModelAnalysis):
    """fvcore's analysis of a traced model, with zoo's rules and zoo's list of what does no arithmetic."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]):
        super().__init__(model, inputs)
        self.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        self.set_op_handle(**{name: partial(_counted, name, rule) for name, rule in RULES.items()})

    def _should_ignore_node(self, node) -> bool:
        # fvcore's own list has relu, clamp, max and others that compute.
        if node.kind() in NO_ARITHMETIC:
            return node.kind() != "prim::Constant" or _is_scalar(next(node.outputs()))
        return node.kind().startswith("aten::") and all(map(_is_scalar, (*node.inputs(), *node.outputs())))


def _counted(name: str, rule: Rule, inputs: list, outputs: list) -> Counter:
    return Counter({short_name(name): rule([_value(v) for v in inputs], [_value(v) for v in outputs])})


def _value(value):
    """A value of the traced graph as a rule sees it (see `zoo.costs.rules`)."""
    if value.isCompleteTensor():
        return torch.Size(value.type().sizes())
    if value.node().kind() in ("prim::ListConstruct", "prim::TupleConstruct"):
        return [_value(v) for v in value.node().inputs()]
    return value.toIValue()


def _is_scalar(value) -> bool:
    kind = value.type().kind()
    return value.type().sizes() == [] if kind == "TensorType" else kind != "ListType"
