"""Costs of a model under torch's dispatch mode: every operator that runs, forward and backward, on meta or with values.

It sees what `torch.jit` cannot trace, dtypes and strides, and the backward pass. Operators come as they run: a linear
map is ``addmm``, an einsum the products that torch makes of it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from zoo.blocks.kernels import private
from zoo.costs.counts import Counts, short_name
from zoo.costs.elementwise import COUNTS, pointwise
from zoo.costs.inputs import Call
from zoo.costs.rules import NO_ARITHMETIC, RULES
from zoo.costs.traffic import traffic
from zoo.costs.work import Work


@dataclass
class Pass:
    """What was recorded of one pass, of all samples together.

    Attributes:
        work: By module, without the modules inside it, and operator.
        uncounted: Number of calls of each operator that does arithmetic, or may, and has no multiply-accumulates.
        unknown: Those of them that have no rule at all.
    """

    work: dict[tuple[str, str], Work] = field(default_factory=lambda: defaultdict(Work))
    uncounted: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)

    def by_operator(self) -> dict[str, Work]:
        total: dict[str, Work] = defaultdict(Work)
        for (_, operator), work in self.work.items():
            total[operator] += work
        return total

    def by_module(self, names: Sequence[str]) -> dict[str, Work]:
        """With the modules inside each; "" is the whole."""
        total = dict.fromkeys(names, Work())
        for (place, _), work in self.work.items():
            for name in _upwards(place):
                total[name] += work
        return total

    def counts(self, names: Sequence[str]) -> Counts:
        by_module = {name: work.macs for name, work in self.by_module(names).items()}
        by_operator = {name: work.macs for name, work in self.by_operator().items() if work.macs}
        return Counts(Counter(by_module), Counter(by_operator), self.uncounted)


@dataclass
class Run:
    """A forward pass, and what may follow it.

    Attributes:
        forward, backward: What ran in each.
        kept: Bytes that the forward pass keeps for the backward pass, by module, without the modules inside it.
    """

    forward: Pass = field(default_factory=Pass)
    backward: Pass = field(default_factory=Pass)
    kept: Counter[str] = field(default_factory=Counter)

    def kept_by_module(self, names: Sequence[str]) -> dict[str, int]:
        """With the modules inside each; "" is the whole."""
        total = dict.fromkeys(names, 0)
        for place, size in self.kept.items():
            for name in _upwards(place):
                total[name] += size
        return total


def count(twin: nn.Module, call: Call) -> Counts:
    """What a forward pass of a model costs that `zoo.costs.twin.twin_of` made, called with tensors on its device."""
    return run(twin, call).forward.counts([name for name, _ in twin.named_modules()])


def run(twin: nn.Module, call: Call, *, backward: bool = False) -> Run:
    """Run a model that `zoo.costs.twin.twin_of` made, and record what it does.

    Args:
        twin: The model.
        call: What it is called with, on its device.
        backward: Whether to run the backward pass too, from all outputs that have gradients.

    Raises:
        RuntimeError: This torch has no mode that sees operators.
    """
    if private.DispatchMode is None:
        raise RuntimeError("this torch has no TorchDispatchMode, which sees operators as they run")
    recorder = Recorder(twin)
    tensors = [*twin.parameters(), *twin.buffers(), *call.tensors]
    with torch.set_grad_enabled(backward), recorder, _Attention(recorder), recorder.keeping(tensors):
        outputs = twin(*call.args, **call.keywords)
    if backward:
        ends = [t for t in _tensors(outputs) if t.requires_grad]
        seeds = [torch.ones_like(t) for t in ends]
        recorder.turn()
        with recorder:
            torch.autograd.backward(ends, seeds)
    return recorder.run


class Recorder(private.DispatchMode or object):
    """Records what each operator costs, under the module whose forward pass it is part of."""

    def __init__(self, twin: nn.Module):
        super().__init__()
        self.run = Run()
        self.now = self.run.forward
        self.places = [""]
        for name, module in twin.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: self.places.append(name), prepend=True)
            module.register_forward_hook(self._leave)

    def _leave(self, *_) -> None:
        self.places.pop()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        outputs = operator(*args, **kwargs)
        self.record(operator.name().split(".")[0], private.in_order(operator, args, kwargs), outputs, operator.tags)
        return outputs

    def record(self, name: str, inputs: Sequence[Any], outputs: Any, tags: Sequence[Any] = ()) -> None:
        """Note one call.

        Args:
            name: Of the operator, with its namespace.
            inputs: Its arguments in the order of its schema.
            outputs: What it gave.
            tags: Torch's tags of the operator.
        """
        outputs = outputs if isinstance(outputs, (list, tuple)) else (outputs,)
        ins, outs = _unique(inputs), _unique(outputs)
        sizes, results = _value(list(inputs)), _value(list(outputs))
        macs = RULES[name](sizes, results) if name in RULES else 0
        label, other = short_name(name), 0
        counts = not {name, f"aten::{label}"} & NO_ARITHMETIC and any(t.dim() for t in (*ins, *outs))
        if counts:
            count = COUNTS.get(name, COUNTS.get(f"aten::{label}")) or (
                pointwise if torch.Tag.pointwise in tags else None
            )
            other = count(sizes, results) if count else 0
            if name not in RULES:
                self.now.uncounted[label] += 1
                if count is None:
                    self.now.unknown[label] += 1
        self.now.work[self.places[-1], label] += Work(1, macs, other, *traffic(name, ins, outs))

    def keeping(self, known: Sequence[Tensor]) -> saved_tensors_hooks:
        """Within it, what autograd keeps is noted, but for what is there all the time: parameters, buffers, inputs.

        A node of the backward pass asks for what it kept before it computes; so what it runs is that module's.
        """
        storages = {id(t.untyped_storage()): t.untyped_storage() for t in known}

        def pack(t: Tensor) -> tuple[Tensor, str]:
            storage = t.untyped_storage()
            if id(storage) not in storages:
                storages[id(storage)] = storage
                self.run.kept[self.places[-1]] += storage.nbytes()
            return t, self.places[-1]

        def unpack(kept: tuple[Tensor, str]) -> Tensor:
            self.places[-1] = kept[1]
            return kept[0]

        return saved_tensors_hooks(pack, unpack)

    def turn(self) -> None:
        """From now on it is the backward pass."""
        self.now, self.places = self.run.backward, [""]


class _Attention(TorchFunctionMode):
    """Keeps attention in one piece on meta, where torch takes it apart, but no device with values does.

    Where a bias of the scores is learnt, or some are dropped, it stays in parts, as on those devices. Attention within
    `nn.MultiheadAttention` is in parts too: what that calls inside is not seen from here.
    """

    def __init__(self, recorder: Recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            query, key, value, mask = _attention_of(*args, **kwargs)
            if query is not None:
                return _FusedAttention.apply(self.recorder, query, key, value, mask)
        return function(*args, **kwargs)


def _attention_of(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
) -> tuple[Tensor | None, ...]:
    """Query, key, value and mask where it can stay in one piece; else four times None."""
    learnt = attn_mask is not None and attn_mask.requires_grad and torch.is_grad_enabled()
    if not query.is_meta or dropout_p or learnt or query.dim() < 3:
        return (None,) * 4
    return query, key, value, attn_mask


class _FusedAttention(torch.autograd.Function):
    """Attention without values, with what a fused kernel keeps: its operands, the result, a number a row."""

    @staticmethod
    def forward(ctx, recorder, query, key, value, mask):
        batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
        out = query.new_empty(*batch, *query.shape[-3:-1], value.shape[-1])
        sums = query.new_empty(out.shape[:-1], dtype=torch.float32)
        ctx.recorder = recorder
        ctx.save_for_backward(query, key, value, out, sums)
        recorder.record("aten::scaled_dot_product_attention", [query, key, value, mask], [out])
        return out

    @staticmethod
    def backward(ctx, grad):
        query, key, value, out, sums = ctx.saved_tensors
        grads = [torch.empty_like(t) for t in (query, key, value)]
        operator = "aten::scaled_dot_product_attention_backward"
        ctx.recorder.record(operator, [grad, query, key, value, out, sums], grads)
        return None, *grads, None


def _upwards(name: str) -> Iterator[str]:
    """A module's name, those of the modules around it, and "" for the whole."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in what a model is given or gives: sequences, mappings, and objects with attributes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))


def _unique(values: Sequence[Any]) -> list[Tensor]:
    """The tensors among arguments, also in lists, each once."""
    return list({id(t): t for t in _tensors([v for v in values if isinstance(v, (Tensor, list, tuple))])}.values())


def _value(value: Any) -> Any:
    """A value as a rule sees it (see `zoo.costs.rules`)."""
    if isinstance(value, Tensor):
        return value.shape
    return [_value(v) for v in value] if isinstance(value, (list, tuple)) else value
