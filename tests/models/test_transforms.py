"""Every family under what records, transforms and differentiates it: the values are those of the eager model."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from conftest import TINY_VARIANTS, randomised, relative_error
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.blocks.kernels import guard, onednn
from zoo.blocks.moe.layer import MoE

aten = torch.ops.aten


def filled(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small model in eval mode whose every parameter takes part."""
    return randomised(zoo.create_model(name)).to(dtype)


def samples_together(model: nn.Module) -> int:
    """Of how many samples the batches of a recorded program are multiples: those that a mixture routes together."""
    return max((module.group or 1 for module in model.modules() if isinstance(module, MoE)), default=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_a_trace_holds_for_other_images_and_other_batches(name, dtype):
    model = filled(name, dtype)
    unit = samples_together(model)
    first, others = (torch.randn(batch * unit, *model.input_size, dtype=dtype) for batch in (2, 5))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer about shapes
        traced = torch.jit.trace(model, first, check_trace=False)
        for images in (others[: len(first)], others):
            assert relative_error(traced(images), model(images)) < (1e-4 if dtype is torch.float32 else 0.05)


@pytest.mark.slow  # in the suite test_export_families exports some of the families with an open batch, and compares
@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_an_exported_program_takes_batches_of_any_size(name):
    model = filled(name)
    unit, batch = samples_together(model), torch.export.Dim("batch", min=1, max=64)
    size = ({0: batch if unit == 1 else unit * batch},)
    program = torch.export.export(model, (torch.randn(3 * unit, *model.input_size),), dynamic_shapes=size).module()
    x = torch.randn(5 * unit, *model.input_size)
    assert relative_error(program(x), model(x)) < 1e-4


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_gradients_of_each_sample_at_once(name):
    model = filled(name, torch.float64)
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x[None],)).square().sum()

    x = torch.randn(3, *model.input_size, dtype=torch.float64)
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i in range(len(x)):
        model.zero_grad()
        model(x[i : i + 1]).square().sum().backward()
        for key, parameter in parameters.items():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert torch.allclose(found[key][i], expected, rtol=1e-6, atol=1e-8 * max(1.0, expected.abs().max())), key


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_derivatives_in_forward_mode(name):
    model = filled(name, torch.float64)
    x, along = (torch.randn(2, *model.input_size, dtype=torch.float64) for _ in range(2))
    _, found = torch.func.jvp(model, (x,), (along,))
    with torch.no_grad():
        expected = (model(x + 1e-6 * along) - model(x - 1e-6 * along)) / 2e-6
    assert expected.abs().max() > 0 and relative_error(found, expected) < 1e-5
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, along)
        tangent = torch.autograd.forward_ad.unpack_dual(model(dual)).tangent
    assert relative_error(tangent, expected) < 1e-5


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_an_empty_batch(name):
    model = filled(name)
    x = torch.randn(0, *model.input_size, requires_grad=True)
    with torch.no_grad():
        assert model(x).shape == (0, model.num_classes)
    for training in (False, True):
        y, aux = model.train(training)(x, return_aux=True)
        losses = [value for key, value in aux.items() if key.startswith("loss/")]
        assert y.shape == (0, model.num_classes) and all(loss.isfinite() for loss in losses)
        (y.sum() + sum(losses)).backward()
        assert x.grad.shape == x.shape
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_counters_of_torch_see_the_plain_operators(name, monkeypatch):
    """Under a mode that looks at operators no fast path hides linear maps or convolutions, whatever their size."""
    monkeypatch.setattr(onednn, "LEAST_MACS", dict.fromkeys(onednn.LEAST_MACS, 1))
    model = filled(name)
    x, counts = torch.randn(2, *model.input_size), []
    for grad in (True, False):
        with torch.set_grad_enabled(grad), FlopCounterMode(display=False) as counter:
            model(x)
        flops = counter.get_flop_counts()["Global"]
        counts.append(sum(n for op, n in flops.items() if op in (aten.mm, aten.addmm, aten.convolution)))
    assert counts[0] == counts[1] > 0


def test_only_the_guard_asks_who_is_watching():
    """A second place that asks would ask for less, one day."""
    asked = re.compile(r"is_compiling|is_tracing|_functorch|functorch_transforms|forward_ad|dispatch_stack")
    root = Path(zoo.__file__).parent
    places = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if asked.search(path.read_text("utf-8"))}
    assert places == {"blocks/kernels/guard.py", "blocks/kernels/private.py"}


def test_the_guard_sees_each_kind_of_watcher():
    x = torch.ones(3)
    seen = []

    def look(t):
        seen.append(guard.plain(t))
        return t * 2

    assert guard.plain(x, None, nn.Parameter(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(look, x, check_trace=False)
    torch.func.vmap(look)(x)
    torch.func.jvp(look, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        look(x)
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(leaf * 2, leaf, torch.eye(3), is_grads_batched=True)
    with FlopCounterMode(display=False):
        look(x)
    look(x.to("meta"))
    compiled = torch.compile(lambda t: t + 1 if guard.plain(t) else t + 2, backend="eager", fullgraph=True)
    assert not any(seen) and len(seen) == 6 and compiled(x)[0] == 3


@pytest.mark.parametrize("name", [n for n in TINY_VARIANTS if n.startswith(("swin", "vmoe"))])
def test_averages_of_buffers_leave_indices_alone(name):
    """Torch averages whole numbers too, and cuts off what rounding takes from them."""
    model = filled(name)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        average.update_parameters(model)
    x = torch.randn(2, *model.input_size)
    assert relative_error(average.eval()(x), model(x)) < 1e-5
