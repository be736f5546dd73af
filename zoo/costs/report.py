"""What a count of costs says: totals, by module and by operator, and what was not counted."""

import textwrap
from collections import Counter
from dataclasses import dataclass


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

        widths = [max(len(row[i]) for row in cells if row) for i in range(4)]
        lines = [self._summary(), ""]
        for row in cells:
            columns = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] if row else []
            lines.append("  ".join(columns))
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


def _human(number: int) -> str:
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if round(number / scale, 2) >= 1:
            return f"{number / scale:.2f} {unit}"
    return str(number)


def _cell(number: int) -> str:
    text = _human(number)
    return text if " " in text else f"{text}  "  # digits under digits, with a unit or without
