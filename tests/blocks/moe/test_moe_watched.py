"""Mixtures while somebody watches: traces, exports, compilers, transforms, second derivatives; and empty batches."""

import random
import warnings
from functools import partial

import pytest
import torch
from conftest import images, randomised, relative_error
from test_moe_layer import CAPACITIES, make, slow
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.autograd import forward_ad

import zoo
from zoo.blocks.kernels import grouped, guard
from zoo.blocks.moe.dispatch import Capacity
from zoo.blocks.moe.layer import MoE
from zoo.blocks.moe.routers.expert_choice import ExpertChoice
from zoo.slots.table import blocks_of

ROUTERS = [
    *sorted(set(blocks_of("router")) - {"remap"}),
    "top_k(softmax='before', noise=1.0, losses=('importance', 'load', 'load_importance'))",
    "relu(losses=('l1', 'importance', 'concentration'))",
    "sigmoid(losses=('balance', 'z'))",
    "expert_choice(capacity_factor=0.7, multiple=2, losses=('importance', 'z', 'concentration'))",
    "remap(router='top_k', scored=6, kept=(0, 2, 3), split=(1,))",
]
DISPATCHES = [*CAPACITIES, "capacity(factor=0.9, rule='tutel', multiple=2)"]
PERCEPTRONS = ["mlp", "glu(bias=False)", "modulated", "mlp(act='squared_relu')", ["mlp", "glu"]]
EXPERTS = [*PERCEPTRONS, ["rbf_kan"], ["spline_kan"]]
MODELS = ["vmoe_test", "m3vit_test", "mlp_kan_test", "sparse_mlp_test"]


def combinations(count: int) -> list[tuple]:
    """Routers, dispatches, experts and groups: each of them as often as it can be, in chance company."""
    draw, columns = random.Random(count), []
    for part in (ROUTERS, DISPATCHES, EXPERTS, [None, 1]):
        column = (part * count)[:count]
        draw.shuffle(column)
        columns.append(column)
    return [*zip(*columns, strict=True)]


def layer_of(router: str, dispatch: str, experts, group: int | None, **options) -> MoE:
    return make(num_experts=4, router=router, dispatch=dispatch, experts=experts, group=group, **options).eval()


def outputs(result) -> list[torch.Tensor]:
    y, aux = result
    return [y, *(aux[key] for key in sorted(aux))]


def assert_same(found, expected) -> None:
    for a, b in zip(outputs(found), outputs(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture
def quiet():
    """torch says of `torch.jit.trace` that it is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


# --- Recorded programs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", combinations(40), ids=str)
def test_a_trace_holds_for_other_values_and_batches(case, quiet):
    layer = layer_of(*case)
    with warnings.catch_warnings():
        if "kan" not in str(case):
            warnings.simplefilter("error", torch.jit.TracerWarning)  # what decides by a size
        traced = torch.jit.trace(layer, torch.randn(2, 7, 12), check_trace=False, strict=False)
    for batch in (2, 1, 3, 5):
        x = torch.randn(batch, 7, 12)
        assert_same(traced(x), layer(x))


@pytest.mark.parametrize("name", [*MODELS, "swin_moe_test"])
def test_a_traced_model_holds_for_other_images(name, quiet):
    model = randomised(zoo.create_model(name))
    groups = [module.group for module in model.modules() if isinstance(module, MoE)]
    several = max([1, *filter(None, groups)])
    traced = torch.jit.trace(model, images(model, 2 * several), check_trace=False)
    for number in (2,) if name == "swin_moe_test" else (2, 3):  # of windows only that they hold for other images
        x = images(model, number * several)
        assert relative_error(traced(x), model(x)) < 1e-4


def test_a_trace_of_groups_holds_for_full_groups_or_as_many_samples(quiet):
    layer = make(num_experts=4, group=2, dispatch="capacity(factor=0.6)").eval()
    for batch, others, wrong in ((2, (4, 6), 3), (3, (3,), 4), (1, (1,), 2)):
        with pytest.warns(torch.jit.TracerWarning, match="Python integer"):
            traced = torch.jit.trace(layer, torch.randn(batch, 7, 12), check_trace=False, strict=False)
        for size in others:
            x = torch.randn(size, 7, 12)
            assert_same(traced(x), layer(x))
        with pytest.raises(RuntimeError, match="is invalid for input of size"):
            traced(torch.randn(wrong, 7, 12))


def test_rooms_are_the_same_of_sizes_as_tensors():
    """Where a trace has tensors for sizes, rounding is that of Python's floats."""
    dispatches = [
        Capacity(factor=f, rule=r, multiple=m) for f in (0.1, 1.05, 1.1) for r in ("ceil", "tutel") for m in (1, 4)
    ]
    routers = [ExpertChoice(2, 5, k, capacity_factor=f, multiple=m) for k in (1, 2) for f in (0.7, 1.1) for m in (1, 4)]
    for tokens in range(0, 300):
        size = torch.tensor(tokens)
        assert all(d.room(tokens, 2, 6) == int(d.room(size, 2, 6)) for d in dispatches)
        assert all(r.room(tokens) == int(r.room(size)) for r in routers)


@pytest.mark.parametrize("case", [*combinations(12), ("importance", "dropless", "mlp", None)], ids=str)
def test_an_export_holds_for_other_batches(case):
    layer = layer_of(*case)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(layer, (torch.randn(3, 7, 12),), dynamic_shapes=(batch,)).module()
    for size in (1, 5):
        x = torch.randn(size, 7, 12)
        assert_same(program(x), layer(x))


@pytest.mark.parametrize(
    "options",
    [
        {"experts": "glu", "dispatch": "capacity(factor=0.6, priority='gate')"},
        {"router": "expert_choice", "experts": ["mlp", "glu"]},
        {"router": "importance", "group": 1},
    ],
    ids=str,
)
def test_compiled_once_for_all_batches(options):
    torch.compiler.reset()
    layer, counter = make(num_experts=4, **options).eval(), CompileCounter()
    compiled = torch.compile(layer, backend=counter, dynamic=True, fullgraph=True)
    with torch.no_grad():
        for batch in (6, 3, 5, 4):
            x = torch.randn(batch, 7, 12)
            assert_same(compiled(x), layer(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("options", [{}, {"experts": ["mlp"]}], ids=str)
def test_onnx_is_refused(options, monkeypatch):
    layer = make(num_experts=4, **options)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with pytest.raises(ValueError, match="a mixture of 4 experts cannot be exported to ONNX"):
        layer(torch.randn(2, 7, 12))


# --- Derivatives of all kinds -----------------------------------------------------------------------------------------


@pytest.fixture(params=EXPERTS, ids=str)
def layer(request):
    """In double precision, with everything that has a gradient."""
    return make(5, 0.5, num_experts=3, experts=request.param, shared="mlp", dispatch="capacity(factor=1.2)").double()


@pytest.fixture
def x():
    return torch.randn(2, 3, 5, dtype=torch.float64)


def loss_of(function, x) -> torch.Tensor:
    return function(x).square().sum()


def test_forward_mode(layer, x):
    tangent, run = torch.randn_like(x), lambda x: layer(x)[0]
    _, expected = torch.func.jvp(lambda x: slow(layer, x), (x,), (tangent,))
    step = 1e-6
    numeric = (run(x + step * tangent) - run(x - step * tangent)) / (2 * step)
    assert torch.allclose(expected, numeric, atol=1e-6) and expected.abs().max() > 0.1
    assert torch.allclose(torch.func.jvp(run, (x,), (tangent,))[1], expected)


@pytest.mark.parametrize("layer", PERCEPTRONS, ids=str, indirect=True)
def test_dual_numbers(layer, x):
    tangent, run = torch.randn_like(x), lambda x: layer(x)[0]
    _, expected = torch.func.jvp(lambda x: slow(layer, x), (x,), (tangent,))
    with forward_ad.dual_level():
        assert torch.allclose(forward_ad.unpack_dual(run(forward_ad.make_dual(x, tangent))).tangent, expected)


def test_forward_mode_of_a_weight_in_single_precision():
    """Where the fused form would run."""
    layer, x = make(num_experts=4), torch.randn(3, 7, 12)
    name, weight = next((n, p.detach()) for n, p in layer.named_parameters() if n == "experts.fc1.weight")
    tangent = torch.randn_like(weight)
    run = lambda w: torch.func.functional_call(layer, {name: w}, (x,))[0]
    found = torch.func.jvp(run, (weight,), (tangent,))[1]
    numeric = (run(weight + 1e-2 * tangent) - run(weight - 1e-2 * tangent)) / 2e-2
    assert (found - numeric).norm() < 1e-2 * numeric.norm()


def penalty(function, layer, x) -> tuple[torch.Tensor, ...]:
    """Gradients of the norm of a gradient."""
    x = x.clone().requires_grad_()
    (by_x,) = torch.autograd.grad(loss_of(function, x), x, create_graph=True)
    tensors = [x, *layer.parameters()]
    found = torch.autograd.grad(by_x.square().sum(), tensors, allow_unused=True)
    return tuple(torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True))


def check_penalty(layer, x, tolerance: float) -> None:
    found, expected = (penalty(f, layer, x) for f in (lambda x: layer(x)[0], lambda x: slow(layer, x)))
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


def test_gradients_of_gradients(layer, x):
    check_penalty(layer, x, 1e-8)


@pytest.mark.parametrize("layer", PERCEPTRONS, ids=str, indirect=True)
def test_gradients_of_gradients_in_single_precision(layer, x):
    """Where the fused form runs the forward pass."""
    check_penalty(layer.float(), x.float(), 1e-3)


def test_the_grouped_product_has_derivatives_of_every_order():
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    shapes = ((6, 3), (3, 2, 3), (3, 2))
    tensors = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
    function = lambda *t: grouped.linear(*t, ends).sin()  # or its second derivative would be too simple
    assert torch.autograd.gradgradcheck(function, tensors)
    points = tuple(t.detach() for t in tensors)
    found, expected = (
        torch.autograd.functional.hvp(partial(penalty_of, f), points, points)[1]
        for f in (function, lambda *t: grouped.everywhere(*t, ends).sin())
    )
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b)


def penalty_of(function, *tensors) -> torch.Tensor:
    return sum(g.square().sum() for g in torch.autograd.grad(function(*tensors).sum(), tensors, create_graph=True))


def test_jacobians_and_hessians(layer, x):
    run, loop = (lambda x: layer(x)[0]), (lambda x: slow(layer, x))
    jacobian = torch.autograd.functional.jacobian(loop, x)
    assert torch.allclose(torch.func.jacrev(run)(x), jacobian)
    assert torch.allclose(torch.func.jacfwd(run)(x), jacobian)
    hessian = torch.autograd.functional.hessian(lambda x: loss_of(loop, x), x)
    assert torch.allclose(torch.func.hessian(lambda x: loss_of(run, x))(x), hessian)


@pytest.mark.parametrize("layer", PERCEPTRONS, ids=str, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_several_gradients_at_once(layer, x, dtype):
    layer, x = layer.to(dtype), x.to(dtype).requires_grad_()
    y = layer(x)[0]
    many, tensors = torch.randn(4, *y.shape, dtype=dtype), [x, *layer.parameters()]
    options = {"retain_graph": True, "allow_unused": True}
    expected = [torch.autograd.grad(y, tensors, grad, **options) for grad in many]
    found = [
        torch.autograd.grad(y, tensors, many, is_grads_batched=True, **options),
        torch.func.vmap(lambda grad: torch.autograd.grad(y, tensors, grad, **options))(many),
    ]
    for several in found:
        for i, grads in enumerate(zip(*expected, strict=True)):
            assert several[i] is None or torch.allclose(several[i], torch.stack(grads), rtol=1e-4, atol=1e-5)


def per_sample(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    loss = lambda p, x: first_of(torch.func.functional_call(model, p, (x[None],))).square().sum()
    return torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)


def first_of(result) -> torch.Tensor:
    return result[0] if isinstance(result, tuple) else result


def assert_per_sample(model: nn.Module, x: torch.Tensor) -> None:
    """Each sample's gradients are those of the sample alone."""
    found, names = per_sample(model, x), [name for name, _ in model.named_parameters()]
    for i, sample in enumerate(x):
        loss = first_of(model(sample[None])).square().sum()
        for name, grad in zip(names, torch.autograd.grad(loss, [*model.parameters()], allow_unused=True), strict=True):
            expected = torch.zeros_like(found[name][i]) if grad is None else grad
            torch.testing.assert_close(found[name][i], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", combinations(24), ids=str)
def test_gradients_of_each_sample(case):
    assert_per_sample(layer_of(*case), torch.randn(3, 7, 12))


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_each_sample_of_a_model(name):
    model = zoo.create_model(name).eval()
    assert_per_sample(model, images(model, 3))


def test_modes_that_look_on_change_nothing():
    """Experts that are mixers still run on their own rows alone."""
    seen = []
    layer = make(num_experts=4, experts=["mlp"])
    for mixer in layer.experts.mixers:
        mixer.register_forward_hook(lambda module, args, y: seen.append(args[0].shape[0]))
    x = torch.randn(3, 7, 12)
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        y = layer(x)[0]
    assert sum(seen) == 2 * 3 * 7 and torch.allclose(y, layer(x)[0])
    assert guard.readable(x) and not guard.readable(x.to("meta"))


# --- Nothing at all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", combinations(40), ids=str)
def test_an_empty_batch(case, training):
    layer = layer_of(*case, shared="glu").train(training)
    for shape in ((0, 7, 12), (0, 3, 2, 12), (2, 0, 12)):
        x = torch.randn(shape, requires_grad=True)
        y, aux = layer(x)
        assert y.shape == shape
        for key, value in aux.items():
            assert value.isfinite().all() and (not key.startswith("loss/") or value == 0), key
        total = y.sum() + sum(value for key, value in aux.items() if key.startswith("loss/"))
        gradients = torch.autograd.grad(total, [x, *layer.parameters()], allow_unused=True)
        assert all(g is None or (g == 0).all() for g in gradients)  # and no NaN
        assert sum(g is None for g in gradients) <= len([*layer.router.parameters()])  # a router without losses
        with torch.no_grad():
            assert layer(x)[0].shape == shape


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_batch_of_images(name):
    model = zoo.create_model(name)
    logits, aux = model(images(model, 0), return_aux=True)
    assert logits.shape == (0, model.num_classes)
    assert all(
        torch.isfinite(t).all() for value in aux.values() for t in (value if isinstance(value, tuple) else [value])
    )
    (logits.sum() + sum(value for key, value in aux.items() if key.startswith("loss/"))).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
