"""Every fast path beside its plain twin: the same function where it holds, and the twin itself where it does not."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from conftest import relative_error
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zoo.blocks.kernels
from zoo.blocks.act import StarReLU
from zoo.blocks.channel.grn_mlp import GRN
from zoo.blocks.conv import DepthwiseConv2d
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.kernels import depthwise, machine, onednn, pooling, windows
from zoo.blocks.linear import Linear
from zoo.blocks.moe.routing import Plan

MODULES = {
    info.name: importlib.import_module(f"zoo.blocks.kernels.{info.name}")
    for info in pkgutil.iter_modules(zoo.blocks.kernels.__path__)
    if info.name != "rational_triton"  # needs a GPU's compiler; tests/blocks/channel/test_gr_kan.py runs it
}
# By module and name, the plain twin; those that are not called `plain_…` by hand.
TWINS = {
    (module, name.removeprefix("plain_")): name
    for module, loaded in MODULES.items()
    for name, value in vars(loaded).items()
    if name.startswith("plain_") and callable(value) and getattr(value, "__module__", "") != "zoo.blocks.linear"
} | {("rational", "rational"): "formula", ("grouped", "linear"): "everywhere"}
HALF, SINGLE = torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Case:
    """Arguments of a fast path, in a precision, and where it holds.

    Attributes:
        make: The arguments.
        precisions: Those in which it holds.
        modes: Whether autograd records.
        outside: Where it does not hold: under a counter of operators (``mode``), in ``double`` precision, under
            ``vmap``, or with a ``hook`` on the layer.
        through: It calls its twin, of other arguments.
        takes: The twin that it takes there, if it is that of a part.
    """

    make: Callable[[torch.dtype], tuple]
    precisions: tuple[torch.dtype, ...] = (SINGLE, HALF)
    modes: tuple[bool, ...] = (False,)
    outside: str = "mode"
    through: bool = False
    takes: str | None = None


def draw(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape).to(dtype)


def layer(dtype: torch.dtype) -> nn.Linear:
    return Linear(16, 24, init="torch", dtype=dtype)


def star(dtype: torch.dtype) -> StarReLU:
    act = StarReLU(dtype=dtype)
    nn.init.constant_(act.scale, 0.5)
    nn.init.constant_(act.bias, -0.25)
    return act


def grn(dtype: torch.dtype) -> tuple:
    norm = GRN(16, dtype=dtype)
    nn.init.normal_(norm.gamma)
    nn.init.normal_(norm.beta)
    return draw(2, 40, 16, dtype=dtype), norm, layer(dtype)


def attended(dtype: torch.dtype) -> tuple:
    q, k, v = (draw(4, 9, 2, 8, dtype=dtype) for _ in "qkv")  # two places in two groups, of two images
    return q, k, v, [draw(2, 9, 9, dtype=dtype) for _ in "ab"], [1, 1], 0.3


def biases(dtype: torch.dtype) -> tuple:
    return draw(7, 2, dtype=dtype), torch.randint(7, (16,)), draw(1, 4, 4, dtype=dtype)


def rows(dtype: torch.dtype) -> tuple:
    token, row = torch.tensor([0, 2, 1, 0, 1, 2]), torch.tensor([[0, 3], [2, 4], [1, 5]], dtype=torch.int32)
    ends = torch.tensor([3, 6], dtype=torch.int32)
    return draw(6, 8, dtype=dtype), Plan(token, torch.rand(6).to(dtype), ends, True, row), 3


def kan(dtype: torch.dtype) -> KANLinear:
    return KANLinear(6, 5, basis="spline", dtype=dtype)


def patches(dtype: torch.dtype) -> tuple:
    return draw(2, 3, 8, 12, dtype=dtype), nn.Conv2d(3, 16, 4, 4, dtype=dtype)


def stacked(dtype: torch.dtype) -> tuple:
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    return draw(5, 8, dtype=dtype), draw(3, 4, 8, dtype=dtype), draw(3, 4, dtype=dtype), ends


def coefficients(dtype: torch.dtype) -> tuple:
    return draw(5, 8, dtype=dtype), draw(1, 6, dtype=dtype), draw(2, 4, dtype=dtype)


BOTH = (False, True)
CASES = {
    ("linear", "product"): Case(lambda t: (draw(5, 16, dtype=t), draw(24, 16, dtype=t), draw(24, dtype=t))),
    ("linear", "linear"): Case(lambda t: (draw(5, 16, dtype=t), layer(t))),
    ("linear", "linear_act"): Case(lambda t: (draw(5, 16, dtype=t), layer(t), nn.GELU())),
    ("linear", "linear_act_halves"): Case(
        lambda t: (draw(5, 16, dtype=t), layer(t), star(t)), outside="hook", takes="plain_halves"
    ),
    ("linear", "halves"): Case(lambda t: (draw(5, 16, dtype=t), layer(t)), modes=BOTH, outside="hook"),
    ("depthwise", "depthwise_nhwc"): Case(
        lambda t: (draw(2, 9, 8, 16, dtype=t), draw(16, 1, 7, 7, dtype=t), draw(16, dtype=t), 2), modes=BOTH
    ),
    ("depthwise", "convolve"): Case(
        lambda t: (DepthwiseConv2d(16, 13, init="torch", dtype=t), draw(2, 16, 9, 8, dtype=t)), modes=BOTH
    ),
    ("pooling", "average"): Case(lambda t: (draw(2, 5, 6, 8, dtype=t), (3, 3), True), (HALF,), (True,)),
    ("activations", "star_relu"): Case(
        lambda t: (draw(5, 16, dtype=t), torch.tensor([0.5], dtype=t), torch.tensor([-0.25], dtype=t)), modes=BOTH
    ),
    ("attention", "attend"): Case(lambda t: (draw(2, 9, 48, dtype=t), 2), (HALF,), BOTH, outside="double"),
    ("attention", "attend_heads"): Case(
        lambda t: tuple(draw(2, 2, 9, 8, dtype=t) for _ in "qkv"), modes=BOTH, outside="vmap"
    ),
    ("windows", "attend_windows"): Case(attended, (HALF,), BOTH),
    ("windows", "window_biases"): Case(biases, (HALF,), through=True),
    ("windows", "in_chunks"): Case(lambda t: (torch.sin, draw(6, 4, 4, 8, dtype=t))),
    ("norms", "norm_over_positions"): Case(lambda t: (draw(2, 40, 16, dtype=t),), modes=BOTH, outside="double"),
    ("norms", "linear_of_norm"): Case(grn, modes=BOTH),
    ("images", "patch_conv"): Case(patches, (HALF,), BOTH),
    ("images", "conv_image"): Case(patches, modes=BOTH, outside="vmap", through=True),
    ("experts", "combine"): Case(rows),
    ("functions", "expand"): Case(lambda t: (one := kan(t), draw(7, 6, dtype=t), one.weight, t), modes=BOTH),
    ("functions", "evaluate"): Case(lambda t: (kan(t), draw(7, 6, dtype=t), t), modes=BOTH),
    ("functions", "mean_sizes"): Case(lambda t: (one := kan(t), draw(7, 6, dtype=t), one.weight.float()), modes=BOTH),
    ("rational", "rational"): Case(coefficients, modes=BOTH, outside="vmap"),
    ("grouped", "linear"): Case(stacked, modes=BOTH, outside="vmap"),
}
RUNS = [
    pytest.param(pair, dtype, grad, id=f"{'.'.join(pair)}-{str(dtype)[6:]}-{'training' if grad else 'inference'}")
    for pair, case in CASES.items()
    for dtype in case.precisions
    for grad in case.modes
]


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    """Small tensors take the fast paths too, and those of machines without matrix instructions."""
    monkeypatch.setattr(machine, "AMX", False)
    monkeypatch.setattr(onednn, "LEAST_MACS", dict.fromkeys(onednn.LEAST_MACS, 1))
    monkeypatch.setattr(pooling, "LEAST_ELEMENTS", 1)
    monkeypatch.setattr(windows, "IMAGES", 512)
    monkeypatch.setattr(windows, "SCORES", 200)


def flat(outputs) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [*outputs]


def leaves(arguments: tuple, grad: bool) -> list[Tensor]:
    """What gradients are taken by: tensors, and the parameters of modules."""
    found = []
    for argument in arguments:
        if isinstance(argument, nn.Module):
            found += argument.parameters()
        elif isinstance(argument, Tensor) and argument.is_floating_point() and argument.is_leaf:
            found.append(argument.requires_grad_(grad))
    return found


def test_every_pair_has_a_case():
    assert CASES.keys() == TWINS.keys()


@pytest.mark.parametrize("pair", [pytest.param(pair, id=".".join(pair)) for pair in CASES])
def test_twins_have_the_same_signature(pair):
    module, name = pair
    if pair == ("linear", "product"):
        return  # the twin is torch's own
    fast, plain = (inspect.signature(getattr(MODULES[module], n)).parameters.values() for n in (name, TWINS[pair]))
    assert [(p.name, p.default) for p in fast] == [(p.name, p.default) for p in plain]


@pytest.mark.parametrize(("pair", "dtype", "grad"), RUNS)
def test_a_fast_path_is_its_plain_twin(pair, dtype, grad, monkeypatch):
    module, case = MODULES[pair[0]], CASES[pair]
    if pair[0] == "linear" and not onednn._available() and not grad:
        pytest.skip("this build of torch has no product of oneDNN's")
    if pair[0] == "depthwise" and not depthwise._AVAILABLE:
        pytest.skip("this processor has no fast convolution")
    arguments, plain = case.make(dtype), getattr(module, TWINS[pair])
    wanted = leaves(arguments, grad)
    with torch.set_grad_enabled(grad):
        expected = flat(plain(*arguments))
        if not case.through:
            monkeypatch.setattr(module, TWINS[pair], lambda *_, **__: pytest.fail("it took the plain twin"))
        found = flat(getattr(module, pair[1])(*arguments))
    results = [found, expected]
    if grad:
        results = [
            [*y, *torch.autograd.grad(sum(t.float().square().sum() for t in y), wanted, allow_unused=True)]
            for y in results
        ]
    assert len(results[0]) == len(results[1])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.shape == other.shape
            assert relative_error(one.float(), other.float()) < (1e-5 if dtype is SINGLE else 0.06)


@pytest.mark.parametrize("pair", [pytest.param(pair, id=".".join(pair)) for pair in CASES])
def test_where_a_fast_path_does_not_hold_the_plain_twin_runs(pair, monkeypatch):
    module, case = MODULES[pair[0]], CASES[pair]
    name = case.takes or TWINS[pair]
    plain, taken = getattr(module, name), []
    monkeypatch.setattr(module, name, lambda *a, **k: taken.append(1) or plain(*a, **k))
    arguments = case.make({"double": torch.float64}.get(case.outside, case.precisions[-1]))
    call = partial(getattr(module, pair[1]))
    with torch.no_grad():
        expected = flat(getattr(module, TWINS[pair])(*arguments))
        taken.clear()
        if case.outside == "vmap":
            place = next(i for i, argument in enumerate(arguments) if isinstance(argument, Tensor))
            inner = lambda x: call(*arguments[:place], x, *arguments[place + 1 :])
            found = [y[0] for y in flat(torch.func.vmap(inner)(arguments[place][None]))]
        else:
            if case.outside == "hook":
                next(a for a in arguments if isinstance(a, nn.Linear)).register_forward_hook(lambda *_: None)
            with FlopCounterMode(display=False) if case.outside == "mode" else nullcontext():
                found = flat(call(*arguments))
    assert taken
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=1e-2, atol=1e-2)
