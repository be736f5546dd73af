"""S-KAN: gates over several spaces, the choice among them, and the layers after it."""

import copy

import pytest
import torch
from conftest import images, relative_error
from torch.autograd import gradcheck, gradgradcheck

import zoo
from zoo.blocks.base import parameters_without_decay
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.kan.select import SPACES, Gates, SelectKANLinear
from zoo.blocks.linear import initialise
from zoo.blocks.token.select_kan_conv import SelectKANConv2d

FEW = ("spline(grid_size=2, order=2)", "chebyshev(degree=2)", "wavelet(num=2)")


def layer(kind: str = "linear", bases=FEW, **kwargs) -> torch.nn.Module:
    """Three inputs and six nodes, whose gates are no longer equal."""
    if kind == "linear":
        made = SelectKANLinear(3, 6, bases, **kwargs)
    else:
        made = SelectKANConv2d(3, 6, 3, bases=bases, **kwargs)
    with torch.no_grad():
        made.gates.logits.normal_()
    return made


def inputs(kind: str, **kwargs) -> torch.Tensor:
    return torch.randn(*((4, 3) if kind == "linear" else (2, 3, 4, 3)), **kwargs)


@pytest.fixture(params=["linear", "conv"])
def kind(request):
    return request.param


# --- With gates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["silu", "none"])
def test_it_is_the_sum_of_single_layers_by_their_gates(base):
    made, x = layer(bases=SPACES, base=base, bias=True), inputs("linear")
    gates, first = made.gates(), int(base != "none")
    expected, start = made.bias + 0, first
    if first:
        expected = expected + torch.nn.functional.silu(x) @ made.weight[:, 0].t()
    for i, (name, part) in enumerate(zip(SPACES, made.basis.parts, strict=True)):
        single = KANLinear(3, 6, name, base="none")
        single.basis.load_state_dict(part.state_dict())
        with torch.no_grad():
            single.weight.copy_(made.weight[:, start : start + part.num])
        expected = expected + gates[:, i] * single(x)
        start += part.num
    assert start == made.weight.shape[1]
    assert torch.allclose(made(x), expected, atol=1e-6)


@pytest.mark.parametrize("selected", [False, True])
def test_derivatives(kind, selected):
    made = layer(kind, FEW[1:], dtype=torch.float64, bias=True)
    x = inputs(kind, dtype=torch.float64)[:1]
    x = (x if kind == "linear" else x[:, :2, :2]).requires_grad_()
    if selected:
        made.select()
    trained = [p for n, p in made.named_parameters() if not (selected and "logits" in n)]
    call = lambda x, *parameters: made(x)
    assert gradcheck(call, (x, *trained), fast_mode=True)
    assert gradgradcheck(call, (x, *trained), fast_mode=True)


def test_each_space_starts_at_the_size_that_it_has_alone():
    made = SelectKANLinear(64, 500, FEW, base="none")
    for name, part in zip(FEW, made.coefficients.split(made.basis.sizes, 1), strict=True):
        alone = KANLinear(64, 500, name, base="none").weight.std().item()
        assert part.std().item() == pytest.approx(alone, rel=0.03)


def test_pruned_edges_stay_out():
    made, x = layer(), inputs("linear")
    made.alive[:, 1] = 0
    other = x.clone()
    other[:, 1] += 1
    assert torch.equal(made(x), made(other))
    made.select()
    assert torch.equal(made(x), made(other))


def test_entropy_and_temperature():
    gates = Gates(4, ["a", "b"], temperature=1.0)
    assert gates.aux()["loss/selection"].item() == pytest.approx(1.0)
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([[0.0, 1.0]]))
        soft, sharp = gates.aux()["loss/selection"], Gates(4, ["a", "b"], temperature=0.1)
        sharp.logits.copy_(gates.logits)
    assert sharp.aux()["loss/selection"] < soft < 1
    p = torch.tensor([0.0, 1.0]).softmax(0)
    assert soft.item() == pytest.approx((-(p * p.log2()).sum()).item(), rel=1e-5)
    assert torch.allclose(gates.aux()["stat/selection"], p) and not gates.aux()["stat/selection"].requires_grad
    sharper = torch.autograd.grad(gates.aux()["loss/selection"], gates.logits)[0]
    assert (sharper[:, 1] < 0).all()  # descending the loss, the larger share grows
    gates.select()
    assert gates.aux()["loss/selection"] == 0 and gates.aux()["stat/selection"].tolist() == [0, 1]


# --- The choice -------------------------------------------------------------------------------------------------------


def test_after_select_it_is_what_gates_of_zero_and_one_give(kind):
    made, x = layer(kind, bias=True), inputs(kind)
    sharp = copy.deepcopy(made)
    with torch.no_grad():
        sharp.gates.logits.mul_(1e4)
    best = made.selection()
    made.select()
    assert torch.allclose(made(x), sharp(x), atol=1e-5)
    assert made.selection().chosen == best.chosen and len(set(best.chosen)) > 1
    assert torch.equal(made.selection().probabilities.argmax(1), best.probabilities.argmax(1))
    assert made.selection().probabilities.unique().tolist() == [0, 1]
    before = made(x)
    made.select()
    assert torch.equal(made(x), before)


def test_only_what_is_used_is_paid_for(kind):
    bases = ("spline(grid_size=5, order=3)", "rbf(num=4)", "fourier(num_frequencies=3)")
    made = layer(kind, bases)
    with torch.no_grad():
        made.gates.logits.zero_()[:4, 1] = 1  # four nodes want Gaussians, two Fourier series, and none splines
        made.gates.logits[4:, 2] = 1
    x = inputs(kind)[:1]
    positions = x[..., 0].numel()
    area = 1 if kind == "linear" else 9
    macs = lambda: zoo.count_flops(made, inputs=[x]).macs
    assert macs() == positions * 3 * ((1 + 8 + 4 + 6) * 6 * area + 12 + 4 + 8)
    made.select()
    assert macs() == positions * 3 * ((1 + 4) * 4 * area + (1 + 6) * 2 * area + 4 + 8)


def test_only_what_is_used_is_trained_and_evaluated():
    made, x = layer(), inputs("linear")
    with torch.no_grad():
        made.gates.logits.zero_()[:, 1] = 1
    made.select()
    made.basis.parts[0].knots.fill_(float("nan"))
    made(x).square().sum().backward()
    assert made.weight.grad.isfinite().all()
    used = made.weight.grad.abs().amax((0, 2)) > 0
    assert used.tolist() == [True] + [False] * 4 + [True] * 3 + [False] * 2
    unused = [made.gates.logits, *made.basis.parts[2].parameters()]
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in unused)  # not None, for which DDP would wait


@pytest.mark.parametrize("selected", [False, True])
def test_save_and_load(kind, selected):
    made, again, x = layer(kind), layer(kind), inputs(kind)
    if selected:
        made.select()
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(x), made(x)) and again.gates.selected == selected
    assert again.selection().chosen == made.selection().chosen
    with torch.device("meta"):
        built = SelectKANLinear(3, 6, FEW) if kind == "linear" else SelectKANConv2d(3, 6, 3, bases=FEW)
    built.load_state_dict(made.state_dict(), assign=True)
    assert torch.equal(built(x), made(x))


def test_a_state_without_a_choice_takes_the_choice_back():
    made, x = layer(), inputs("linear")
    state, before = copy.deepcopy(made.state_dict()), made(x)
    made.select()
    made.load_state_dict(state)
    assert torch.equal(made(x), before) and not made.gates.selected


@pytest.mark.parametrize("selected", [False, True])
def test_compiled_exported_and_in_low_precision(kind, selected):
    torch._dynamo.reset()
    made, x = layer(kind), inputs(kind)
    if selected:
        made.select()
    y = made(x)
    assert torch.allclose(torch.compile(made, backend="aot_eager", fullgraph=True)(x), y, atol=1e-5)
    assert torch.allclose(torch.export.export(made, (x,)).module()(x), y, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        low = made(x)
    assert low.dtype is torch.bfloat16 and relative_error(low.float(), y) < 0.05
    assert relative_error(copy.deepcopy(made).bfloat16()(x.bfloat16()).float(), y) < 0.1


def test_training_selects_the_space_that_the_function_is_of():
    """Three nodes: a fast wave, a polynomial of tanh, and bumps of one side; each is of one of the spaces."""
    bases = ("rbf(num=4, grid_range=(-6, -4))", "chebyshev(degree=3)", "fourier(num_frequencies=8)")
    made = SelectKANLinear(1, 3, bases, base="none", temperature=0.5)
    x = torch.linspace(-6, 6, 400)[:, None]
    target = torch.cat([(8 * x).sin(), x.tanh() ** 3, torch.exp(-(((x + 5) / 0.6) ** 2))], 1)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    for step in range(200):
        loss = (made(x) - target).square().mean() + (0.02 * made.gates.aux()["loss/selection"] if step > 50 else 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [name.split("(")[0] for name in made.selection().chosen] == ["fourier", "chebyshev", "rbf"]
    made.select()
    assert (made(x) - target).square().mean() < 0.01


# --- In models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, slots", [("mixer_test", dict(channel_mixer="select_kan(bases=('rbf', 'fourier'))")), ("s_convkan_test", {})]
)
def test_in_a_model(name, slots, tmp_path):
    model = zoo.create_model(name, head_init="trunc_normal", **slots)
    x = images(model)
    _, aux = model(x, return_aux=True)
    assert aux["loss/selection"].item() == pytest.approx(1.0)
    aux["loss/selection"].backward()
    gates = [module for module in model.modules() if isinstance(module, Gates)]
    assert len(aux["stat/selection"]) == len(gates) and all(g.logits.grad is not None for g in gates)
    with torch.no_grad():
        for module in gates:
            module.logits.normal_()
    macs = zoo.count_flops(model).macs
    for module in gates:
        module.select()
    assert zoo.count_flops(model).macs < 0.7 * macs
    model.eval()
    zoo.save_pretrained(model, tmp_path)
    again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    assert torch.equal(again(x), model(x)) and relative_error(copy.deepcopy(model)(x), model(x)) == 0
    assert model(x, return_aux=True)[1]["loss/selection"] == 0


def test_built_on_meta():
    made = SelectKANLinear(3, 6, FEW, device="meta").to_empty(device="cpu")
    for module in made.modules():
        initialise(module)
    assert made(inputs("linear")).isfinite().all() and not made.gates.selected
    made.select()
    made.gates.reset_parameters()
    assert torch.equal(made.gates(), torch.full((6, 3), 1 / 3))


def test_gates_and_the_parameters_of_the_bases_are_not_decayed():
    free = parameters_without_decay(layer(bias=True))
    assert free == {"bias", "gates.logits", "basis.parts.2.rate", "basis.parts.2.translation"}


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: layer(bases=("rbf",)), "bases is .*, 1 entries; it must have from 2"),
        (lambda: layer(temperature=0.0), "temperature is 0.0; it must be above 0"),
        (lambda: layer(bases=("rbf", "splin")), "basis 'splin' is unknown; did you mean 'spline'"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ValueError, match=message):
        build()
