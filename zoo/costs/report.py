"""What a count of costs says: totals, by module and by operator, and what was not counted."""

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from zoo.checks import Interval, check_type
from zoo.costs.work import Work

PEAK = Annotated[float, Interval(1, 1e30)]
DEPTH = Annotated[int, Interval(0, 1000)]


@dataclass(frozen=True)
class FlopReport:
    """What a model costs. Totals are for one sample; one MAC is one multiplication with one addition.

    Attributes:
        params: Number of parameters; one that several modules share counts once. Buffers are no parameters.
        active_params: Those that one token uses; fewer than `params` where a module has an ``active_fraction``.
        macs: Multiply-accumulates that the forward pass executes.
        by_module: MACs by module name, with those of the modules inside it; "" is the whole model.
        params_by_module: Parameters by module name, likewise.
        by_operator: MACs by operator.
        uncounted: Number of calls of each operator that does arithmetic, or may, and has no rule.
        input_shapes: Shape of each input that was traced, with the batch dimension.
        batch_size: Number of samples in these inputs.
    """

    params: int
    active_params: int
    macs: int
    by_module: dict[str, int]
    params_by_module: dict[str, int]
    by_operator: dict[str, int]
    uncounted: dict[str, int]
    input_shapes: tuple[tuple[int, ...], ...]
    batch_size: int

    @property
    def flops(self) -> int:
        """Floating point operations of one sample: two a MAC."""
        return 2 * self.macs

    @property
    def active_macs(self) -> int:
        """Multiply-accumulates that one token needs: all, since a mixture of experts carries out nothing else."""
        return self.macs

    def __str__(self) -> str:
        return self.table()

    def table(self, depth: int = 1) -> str:
        """A table in plain text: modules down to `depth` levels, then operators, then what was not counted."""
        check_type("depth", depth, DEPTH)
        names = [n for n in self.by_module if n and n.count(".") < depth]
        rows = [("  " * n.count(".") + n, self.params_by_module[n], self.by_module[n]) for n in names]
        if names:
            outer = [n for n in names if "." not in n]
            params = self.params - sum(self.params_by_module[n] for n in outer)
            macs = self.macs - sum(self.by_module[n] for n in outer)
            rows.append(("(outside of these)", max(params, 0), macs))  # parameters that modules share make it negative
        cells = [("module", "parameters", "MACs", "share")]
        cells += [(name, _cell(p), _cell(m), self._share(m)) for name, p, m in rows if p or m]
        cells += [("total", _cell(self.params), _cell(self.macs), self._share(self.macs)), None]
        cells += [("operator", "", "MACs", "share")]
        cells += [(name, "", _cell(m), self._share(m)) for name, m in Counter(self.by_operator).most_common()]

        lines = [self._summary(), "", *_aligned(cells)]
        if self.uncounted:
            calls = ", ".join(f"{name} {n}" for name, n in Counter(self.uncounted).most_common())
            lines += ["", *textwrap.wrap(f"Not counted as MACs (operator and calls): {calls}", 100)]
        return "\n".join(lines)

    def _summary(self) -> str:
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in self.input_shapes)
        line = f"{_human(self.params)} parameters, {_human(self.macs)} MACs ({_human(self.flops)} FLOPs) a sample"
        line += f", input {shapes}"
        if self.active_params != self.params:
            line += f"\nactive for one token: {_human(self.active_params)} parameters"
        return line

    def _share(self, macs: int) -> str:
        return f"{macs / self.macs if self.macs else 0:.1%}"


@dataclass(frozen=True)
class CostReport(FlopReport):
    """What a model costs in inference and in training: see `zoo.count_costs`. Figures are for one sample.

    Attributes:
        unknown: Number of calls of each operator of which nothing is known: neither MACs nor other arithmetic.
        trainable_params: Parameters that have gradients; the others are frozen.
        forward: The work of each operator in a forward pass in eval mode, see `Work`.
        forward_by_module: That of each module, with those inside it; "" is the whole model.
        backward, backward_by_module: Likewise, of the backward pass of a training step. What autograd keeps nothing
            for, such as the gradient of a sum, is with the module before it.
        activations_by_module: Bytes that a forward pass in training keeps for the backward pass, likewise.

    Calls are those of a whole batch.
    """

    unknown: dict[str, int]
    trainable_params: int
    forward: dict[str, Work]
    forward_by_module: dict[str, Work]
    backward: dict[str, Work]
    backward_by_module: dict[str, Work]
    activations_by_module: dict[str, int]

    @property
    def frozen_params(self) -> int:
        """Parameters that have no gradients."""
        return self.params - self.trainable_params

    @property
    def backward_macs(self) -> int:
        """Multiply-accumulates of a backward pass."""
        return self.backward_by_module[""].macs if self.backward_by_module else 0

    @property
    def activation_bytes(self) -> int:
        """Bytes kept for the backward pass."""
        return self.activations_by_module.get("", 0)

    @property
    def bytes(self) -> int:
        """Memory traffic of a forward pass, read and written, each operator for itself."""
        return self.forward_by_module[""].bytes

    @property
    def intensity(self) -> float:
        """Arithmetic intensity of a forward pass, in FLOPs a byte of traffic."""
        return self.forward_by_module[""].intensity

    def roofline(self, flops_per_second: float, bytes_per_second: float) -> dict[str, float]:
        """The least seconds that each operator takes in a forward pass on a machine of such peaks, one after the other.

        Their sum is no bound for a compiled model, which fuses operators and so moves less.

        Args:
            flops_per_second: Peak of the machine's matrix products, two FLOPs a multiply-accumulate.
            bytes_per_second: Peak of its memory.
        """
        for name, value in (("flops_per_second", flops_per_second), ("bytes_per_second", bytes_per_second)):
            check_type(name, value, PEAK)
        return {name: work.seconds(flops_per_second, bytes_per_second) for name, work in self.forward.items()}

    def table(self, depth: int = 1, operators: bool = True) -> str:
        """A table in plain text: modules down to `depth` levels, then operators if asked for, then what is unknown."""
        check_type("depth", depth, DEPTH)
        names = [n for n in self.by_module if n and n.count(".") < depth]
        head = ("", "parameters", "MACs", "backward", "activations", "traffic", "FLOPs/byte")
        cells = [("module", *head[1:])]
        for name in (*names, ""):
            title = "  " * name.count(".") + name if name else "total"
            cells.append((title, _cell(self.params_by_module[name]), *self._costs(name)))
        most = sorted(self.forward.items(), key=lambda item: (-item[1].macs, -item[1].bytes)) if operators else []
        if operators:
            cells += [None, ("operator", "calls", "MACs", "other FLOPs", "", "traffic", "FLOPs/byte")]
        cells += [
            (name, _cell(w.calls), _cell(w.macs), _cell(w.other_flops), "", _bytes(w.bytes), f"{w.intensity:.1f}")
            for name, w in most
            if w.flops or w.bytes
        ]
        lines = [self._summary(), self._more(), "", *_aligned(cells)]
        if self.unknown:
            calls = ", ".join(f"{name} {n}" for name, n in Counter(self.unknown).most_common())
            lines += ["", *textwrap.wrap(f"Nothing is known of (operator and calls): {calls}", 100)]
        return "\n".join(lines)

    def _costs(self, name: str) -> tuple[str, ...]:
        """What a row of the table says of a module."""
        work, back = self.forward_by_module[name], self.backward_by_module.get(name, Work())
        kept = self.activations_by_module.get(name, 0)
        return _cell(work.macs), _cell(back.macs), _bytes(kept), _bytes(work.bytes), f"{work.intensity:.1f}"

    def _more(self) -> str:
        text = f"{_human(self.trainable_params)} parameters are trained, {_human(self.frozen_params)} are frozen"
        if self.backward_by_module:
            text += f"\nbackward {_human(self.backward_macs)} MACs, {_bytes(self.activation_bytes)} kept for it"
        return f"{text}\ntraffic {_bytes(self.bytes)}, {self.intensity:.1f} FLOPs a byte"


def _aligned(rows: Sequence[tuple[str, ...] | None]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right; None is an empty line."""
    full = [row for row in rows if row]
    widths = [max(len(row[i]) for row in full) for i in range(len(full[0]))]
    pad: Callable[[tuple[str, ...]], list[str]] = lambda row: [
        row[0].ljust(widths[0]),
        *map(str.rjust, row[1:], widths[1:]),
    ]
    return ["  ".join(pad(row)).rstrip() if row else "" for row in rows]


def _human(number: float) -> str:
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if round(number / scale, 2) >= 1:
            return f"{number / scale:.2f} {unit}"
    return str(number)


def _bytes(number: float) -> str:
    text = _human(number)
    return f"{text}B" if " " in text else f"{text} B"


def _cell(number: float) -> str:
    text = _human(number)
    return text if " " in text else f"{text}  "  # digits under digits, with a unit or without
