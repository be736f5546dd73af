"""Where the time of a model goes, block by block: latency = complexity / (peak x computational efficiency).

Source: Lavin, "On the Efficiency of Convolutional Neural Networks" (arXiv 2404.03617): a model is slow for what it
    computes, or for how far its blocks stay below the peak, and its MACs say only the first. Its efficiency gap is the
    area in the picture here; the roofline of each block, by what its operators move, stands in the place of its
    waterline, which is for fused kernels.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import torch
from torch import nn

from zoo.bench.ceiling import matmul_ceiling, memory_ceiling
from zoo.bench.place import DTYPES, conditions, device_of, input_size_of, with_threads
from zoo.bench.timing import WARM_UP, spread, take_turns
from zoo.checks import Interval, check_type, shown
from zoo.costs import count_costs


@dataclass(frozen=True)
class Block:
    """One block of a model.

    Attributes:
        name: Of the module.
        kind: Its class.
        macs: Its complexity: multiply-accumulates of a batch.
        seconds: Its measured latency for that batch, alone.
        bound: The least seconds by the roofline: of its arithmetic, or of the bytes that its operators move.
        ceiling: FLOPs a second of the machine's matrix products: the peak.
    """

    name: str
    kind: str
    macs: int
    seconds: float
    bound: float
    ceiling: float

    @property
    def efficiency(self) -> float:
        """Computational efficiency: the share of the peak that it reaches."""
        return 2 * self.macs / self.seconds / self.ceiling

    @property
    def ideal(self) -> float:
        """Seconds that its complexity would take at the peak."""
        return 2 * self.macs / self.ceiling


@dataclass(frozen=True)
class BlockReport:
    """The blocks of a model in the order of its forward pass, and the whole model, timed in the same turns."""

    blocks: tuple[Block, ...]
    whole: Block
    batch_size: int
    conditions: str

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """A Markdown table. The last row is the whole model.

        ``roofline`` is the efficiency at which the machine's memory would keep up: less than what was measured where
        weights and features stay in its caches. What no block has is below zero where blocks alone take longer than
        one behind the other.
        """
        total = self.whole.seconds
        head = "| block | kind | M MACs | ms | of the latency | efficiency | roofline |"
        lines = [self.conditions, "", head, "|---|---|---|---|---|---|---|"]
        outside = total - sum(block.seconds for block in self.blocks)
        for block in (*self.blocks, self.whole):
            shares = block.seconds / total, block.efficiency, block.ideal / block.bound
            cells = f"{block.macs / 1e6 / self.batch_size:.1f} | {1e3 * block.seconds:.2f} | "
            cells += " | ".join(f"{share:.0%}" for share in shares)
            if block is self.whole:
                lines.append(f"| (outside of these) | | | {1e3 * outside:.2f} | {outside / total:.0%} | | |")
            lines.append(f"| {block.name or '(the model)'} | {block.kind} | {cells} |")
        return "\n".join(lines)

    def plot(self, path: str | Path) -> None:
        """A bar a block, as wide as its complexity and as high as its latency over the ideal one.

        The area of a bar is its latency. Below the line at 1 is what the complexity takes at the peak; all above it is
        the efficiency gap, of which the roofline, a mark on the bar, explains the part below it by memory traffic.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        axes, left = figure.subplots(), 0.0
        drawn = [block for block in self.blocks if block.macs]
        kinds = list(dict.fromkeys(block.kind for block in drawn))
        for block in drawn:
            width = block.macs / 1e6 / self.batch_size
            color = f"C{kinds.index(block.kind) % 10}"
            axes.bar(left, 1 / block.efficiency, width, align="edge", color=color, edgecolor="white", linewidth=0.5)
            level = block.bound / block.ideal
            axes.plot([left, left + width], [level, level], color="black", linewidth=2, solid_capstyle="butt")
            left += width
        axes.axhline(1, color="black", linewidth=1, linestyle=":")
        axes.plot([], [], color="black", linewidth=2, label="roofline")
        axes.annotate("peak", (left, 1), xytext=(3, 0), textcoords="offset points", va="center", annotation_clip=False)
        large = [1 / block.efficiency for block in drawn if block.macs >= self.whole.macs / 100]  # these are seen
        axes.set(xlabel="complexity, M MACs an image", ylabel="latency over the ideal one", xlim=(0, left))
        axes.set_ylim(0, 1.1 * max(large, default=2))
        for i, kind in enumerate(kinds):
            axes.bar(0, 0, color=f"C{i % 10}", label=kind)
        figure.legend(frameon=False, loc="outside lower center", ncols=5)
        title = f"{self.whole.kind}: {1e3 * self.whole.seconds:.1f} ms, {self.whole.efficiency:.0%} of the peak"
        unseen = 1 - sum(block.seconds for block in drawn) / self.whole.seconds
        axes.set_title(f"{title}; {max(unseen, 0):.0%} of the time is in no bar", loc="left")
        figure.supxlabel(self.conditions, fontsize="x-small")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.savefig(path, dpi=150)


def by_block(
    model: nn.Module,
    *,
    batch_size: Annotated[int, Interval(1, 2**20)] = 1,
    precision: str = "fp32",
    device: str = "cpu",
    threads: Annotated[int, Interval(1, 2**12)] | None = None,
    rounds: Annotated[int, Interval(1, 10**6)] = 15,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> BlockReport:
    """Time each block of a model alone, on the inputs that it has in a forward pass, in turns with the whole model.

    Blocks are the outermost modules without a list or a sequence of blocks of their own: stem, residual blocks,
    downsampling, head. A module that is called several times is timed once.

    Args:
        model: The model; a copy of it is timed, in eval mode.
        batch_size: Number of samples.
        precision: ``fp32`` or ``bf16``.
        device, threads, rounds, progress: As for `zoo.bench.compare`.

    Example:
        >>> import zoo
        >>> report = by_block(zoo.create_model("vit_test"), rounds=2)
        >>> [block.name for block in report.blocks]
        ['stem', 'tokens', 'blocks.0', 'blocks.1', 'blocks.2', 'norm', 'head']

    Raises:
        ValueError: The precision or the device is unknown, or the model does not tell its input size.
        TypeError: The model is no module.
    """
    for name, value in (("batch_size", batch_size), ("rounds", rounds), ("threads", threads)):
        check_type(name, value, by_block.__annotations__[name])
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision is {shown(precision)}; give fp32 or bf16")
    place, dtype = device_of(device), DTYPES[precision]
    if not isinstance(model, nn.Module):
        raise TypeError(f"by_block takes a module, such as one of zoo.create_model, not {shown(model)}")
    model = copy.deepcopy(model).eval().to(place, dtype)
    x = torch.randn(batch_size, *input_size_of(type(model).__name__, model)).to(place, dtype)
    work = count_costs(model, inputs=x, training=False).forward_by_module
    modules = dict(blocks_of(model))
    calls: dict[str, tuple[tuple, dict]] = {}

    def note(name: str, args: tuple, keywords: dict) -> None:
        calls.setdefault(name, (args, keywords))

    hooks = [
        module.register_forward_pre_hook(lambda _, args, kw, name=name: note(name, args, kw), with_kwargs=True)
        for name, module in modules.items()
    ]
    with torch.inference_mode(), with_threads(threads) as number:
        try:
            model(x)
        finally:
            for hook in hooks:
                hook.remove()
        turns = {name: lambda m=modules[name], c=call: m(*c[0], **c[1]) for name, call in calls.items()}
        peak, bandwidth = matmul_ceiling(dtype, place), memory_ceiling(place)
        done = count(1)
        tell = lambda: progress(next(done), rounds + WARM_UP)
        times = take_turns({**turns, "": lambda: model(x)}, rounds, place, after_round=tell)
    rows = []
    for name, seconds in times.items():
        kind, bound = type(modules.get(name, model)).__name__, batch_size * work[name].seconds(peak, bandwidth)
        rows.append(Block(name, kind, work[name].macs * batch_size, spread(seconds).median, bound, peak))
    timed = f"blocks of a forward pass in {precision} on {batch_size} samples"
    return BlockReport(tuple(rows[:-1]), rows[-1], batch_size, conditions(timed, place, number, rounds))


def blocks_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The blocks of a model by name: see `by_block`."""
    for name, child in model.named_children():
        if isinstance(child, (nn.ModuleList, nn.Sequential)) or any(map(_holds_blocks, child.children())):
            for below, block in blocks_of(child):
                yield f"{name}.{below}", block
        else:
            yield name, child


def _holds_blocks(module: nn.Module) -> bool:
    """Whether it is a list or a sequence of modules that have modules within them."""
    return isinstance(module, (nn.ModuleList, nn.Sequential)) and any(len(list(m.children())) for m in module)
