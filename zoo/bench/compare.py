"""Speed of models, side by side in one process: latency, throughput, memory, and the share of the machine's ceiling."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import count
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.bench.ceiling import matmul_ceiling
from zoo.bench.memory import peak_bytes
from zoo.bench.place import (
    DTYPES,
    Candidates,
    conditions,
    device_of,
    input_size_of,
    models_of,
    tensor_of,
    with_threads,
)
from zoo.bench.report import Contender, SpeedReport, Timing
from zoo.bench.timing import WARM_UP, take_turns
from zoo.bench.ways import WAYS, Call, Precision, Unavailable
from zoo.checks import Interval, check_type, printable, shown, unknown
from zoo.costs import count_costs, count_flops
from zoo.export.program import deployed, relative_difference

LEARNABLE = ("eager", "compile")  # the ways that have a backward pass
SETTLE = 0.03  # seconds that a contender runs at each turn before its call counts


def compare(
    candidates: Candidates,
    *,
    ways: Sequence[str] = ("eager",),
    precisions: Sequence[Precision] = ("fp32",),
    batch_sizes: Sequence[Annotated[int, Interval(1, 2**20)]] = (1,),
    training: bool = False,
    memory: bool = False,
    device: str = "cpu",
    threads: Annotated[int, Interval(1, 2**12)] | None = None,
    rounds: Annotated[int, Interval(1, 10**6)] = 15,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> SpeedReport:
    """Time models, each in several ways, in turns: noise of the machine hits all alike, so that ratios are honest.

    For each batch size all contenders are built first, warmed up, and then called one after the other in every round.
    Each turn begins with calls that do not count, until the runtime before it has come to rest. Forward passes are of
    the models as deployed, with branches merged. A contender that cannot be built here is named in the report with the
    reason. What each computes is compared with the same model in eager mode and fp32: the report has the difference. Of
    several outputs the first counts.

    Args:
        candidates: Names of zoo's models, ``timm:<name>`` for timm's own; or modules by names of your own, which say
            their ``input_size`` or have a ``pretrained_cfg``. They are put into eval mode, and moved to the device.
        ways: Names of `zoo.bench.WAYS`.
        precisions: Of ``fp32``, ``bf16``, ``int8``.
        batch_sizes: Numbers of samples.
        training: Time a training step (forward, cross entropy or mean square, backward) and not a forward pass.
        memory: Measure the peak memory of the contenders that run in PyTorch, too.
        device: ``cpu`` or ``cuda``, with an index or without.
        threads: Number of threads on the CPU, for every way; by default torch's own.
        rounds: Number of rounds that count.
        progress: Called between what is timed, with the number of steps that are done and of all.

    Example:
        >>> report = compare(["mixer_test", "vit_test"], rounds=3)
        >>> [row.contender.candidate for row in report.rows]
        ['mixer_test', 'vit_test']
        >>> report.ratio(report.rows[1]).median > 0
        True

    Raises:
        ValueError: A name, a way, a precision or a device is unknown, or nothing could be built.
        TypeError: A candidate is no module.
    """
    for name, value in (("batch_sizes", batch_sizes), ("rounds", rounds), ("threads", threads)):
        check_type(name, value, compare.__annotations__[name])
    check_type("precisions", precisions, Sequence[Precision])
    check_type("ways", ways, Sequence[str])
    for name, value in (("ways", ways), ("precisions", precisions), ("batch_sizes", batch_sizes)):
        if not value:
            raise ValueError(f"{name} is empty; give one or more")
    for one in ways:
        if one not in WAYS:
            raise ValueError(unknown(f"way {shown(one)}", one, WAYS, "ways"))
    place, models = device_of(device), models_of(candidates)
    rows, skipped = [], {}
    steps = len(batch_sizes) * (len(models) * len(ways) * len(precisions) + rounds + WARM_UP)
    done = count(1)
    tell = lambda: progress(next(done), steps)
    with with_threads(threads) as number:
        ceilings = {dtype: matmul_ceiling(dtype, place) for dtype in {DTYPES[precision] for precision in precisions}}
        for batch_size in batch_sizes:
            torch.compiler.reset()  # it makes no more than a few programs of one forward pass
            calls, facts = {}, {}
            for contender, build in _contenders(models, ways, precisions, batch_size, training, place, number):
                try:
                    calls[contender], facts[contender] = build()
                except Exception as error:  # whatever a compiler or a runtime may raise
                    first = (str(error).splitlines() or [""])[0]
                    reason = first if isinstance(error, Unavailable) else f"{type(error).__name__}: {first}"
                    skipped[contender] = printable(reason, 200)
                tell()
            turns = take_turns(calls, rounds, place, settle=SETTLE, after_round=tell)
            for contender, seconds in turns.items():
                measured = memory and contender.way in LEARNABLE
                peak = peak_bytes(calls[contender], place) if measured else None
                ceiling = ceilings[DTYPES[contender.precision]]
                rows.append(Timing(contender, seconds, *facts[contender], ceiling, peak))
    if not rows:
        raise ValueError("nothing could be built: " + "; ".join(f"{c}: {why}" for c, why in skipped.items()))
    return SpeedReport(
        tuple(rows), skipped, conditions("a training step" if training else "a forward pass", place, number, rounds)
    )


def _contenders(
    models: Mapping[str, nn.Module],
    ways: Sequence[str],
    precisions: Sequence[Precision],
    batch_size: int,
    training: bool,
    device: torch.device,
    threads: int,
) -> Iterator[tuple[Contender, Callable[[], tuple[Call, tuple[int, float]]]]]:
    """Every contender of a batch size, and what builds its call, its MACs a batch and its difference."""
    for candidate, model in models.items():
        size = input_size_of(candidate, model)
        x = torch.randn(batch_size, *size, generator=torch.Generator().manual_seed(0)).to(device)
        model = model.to(device)
        reference = cache(partial(_trained if training else _computed, model, x))  # of all its ways, once
        for way in ways:
            for precision in precisions:
                contender = Contender(candidate, way, precision, batch_size)
                if training:
                    yield contender, partial(_step, model, x, way, precision, reference)
                else:
                    yield contender, partial(_forward, x, way, precision, threads, reference)


def _computed(model: nn.Module, x: Tensor) -> tuple[nn.Module, int, Tensor]:
    """The model as deployed, its MACs of a batch, and the outputs of the model itself in eager mode and fp32."""
    with torch.inference_mode():
        outputs = tensor_of(model.eval()(x)).float()
    model = deployed(model)
    return model, count_flops(model, inputs=x).macs * len(x), outputs


def _trained(model: nn.Module, x: Tensor) -> int:
    """MACs of a training step on a batch."""
    costs = count_costs(model, inputs=x)
    return (costs.macs + costs.backward_macs) * len(x)


def _forward(
    x: Tensor,
    way: str,
    precision: Precision,
    threads: int,
    reference: Callable[[], tuple[nn.Module, int, Tensor]],
) -> tuple[Call, tuple[int, float]]:
    model, macs, expected = reference()
    call = WAYS[way](model, x, precision, threads)
    found = tensor_of(call()).float().to(expected.device)
    return call, (macs, relative_difference(found, expected))


def _step(
    model: nn.Module, x: Tensor, way: str, precision: Precision, reference: Callable[[], int]
) -> tuple[Call, tuple[int, float]]:
    if way not in LEARNABLE:
        raise Unavailable(f"{way} has no backward pass")
    if precision == "int8":
        raise Unavailable("int8 has no backward pass")
    macs = reference()
    model = copy.deepcopy(model).train().to(DTYPES[precision])
    x = x.to(DTYPES[precision])
    forward = torch.compile(model, fullgraph=True, dynamic=False) if way == "compile" else model

    def call() -> Tensor:
        y = tensor_of(forward(x))
        loss = F.cross_entropy(y, y.new_zeros(len(y), dtype=torch.long)) if y.dim() == 2 else y.square().mean()
        loss.backward()
        model.zero_grad()
        return loss.detach()

    call()
    return call, (macs, float("nan"))
