"""What one does to the edges of KAN layers: grids, penalties, pruning, extraction, pictures."""

import copy
import math
import sys
import warnings

import pytest
import torch
from conftest import relative_error
from torch import nn

import zoo
from zoo.blocks.kan.edges import edge_function, edge_sizes, edge_values
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.kernels import functions
from zoo.tools.kan import grid
from zoo.tools.kan.grid import refine, update_grid
from zoo.tools.kan.plot import plot
from zoo.tools.kan.record import record_inputs
from zoo.tools.kan.sparsity import edge_scores, penalties, prune


def layer_of(inputs: int = 3, outputs: int = 4, *args, **options) -> KANLinear:
    layer = KANLinear(inputs, outputs, *args, **options)
    nn.init.normal_(layer.weight)
    return layer


def network(*widths: int, **options) -> nn.Sequential:
    return nn.Sequential(*(layer_of(a, b, **options) for a, b in zip(widths, widths[1:], strict=False)))


def inside(rows: int = 300, features: int = 3) -> torch.Tensor:
    return 2 * torch.rand(rows, features) - 1


# --- Grids from samples -----------------------------------------------------------------------------------------------


def test_knots_are_quantiles_mixed_with_an_even_grid():
    layer, x = layer_of(1, 2, grid_size=4), torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 16])[:, None]
    update_grid(layer, x, grid_eps=0.25, margin=0)
    inner = torch.tensor([0, 0.75 * 2 + 0.25 * 4, 0.75 * 4 + 0.25 * 8, 0.75 * 6 + 0.25 * 12, 16])
    outer = 4 * torch.arange(1, 4)
    assert torch.allclose(layer.basis.knots[0], torch.cat([-outer.flip(0), inner, 16 + outer]))
    assert not layer.basis.even
    update_grid(layer, x, grid_eps=1, margin=0.125)
    assert torch.allclose(layer.basis.knots[0, 3:-3], torch.linspace(-2, 18, 5)) and layer.basis.even


@pytest.mark.parametrize("grid_eps", [0.02, 1.0])
def test_a_new_grid_keeps_what_its_splines_can_be(grid_eps):
    """Cubic polynomials are in the space of cubic splines on any grid."""
    layer, x = layer_of(), inside()
    with torch.no_grad():
        points = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None].expand(-1, 3)
        values = copy.deepcopy(layer.basis).double().values(points)[..., 0]
        fitted = torch.linalg.lstsq(values, points[:, :1] ** 3 - points[:, :1]).solution
        layer.coefficients.copy_(fitted.float())
    y = layer(x)
    update_grid(layer, x * 0.9, grid_eps=grid_eps)
    assert (layer(x) - y)[x.abs().amax(1) < 0.88].abs().max() < 1e-5
    assert relative_error(edge_values(layer, x * 0.88).sum(-1), layer(x * 0.88)) < 1e-5


def test_a_new_grid_is_the_nearest_on_the_samples():
    """No other coefficients on the same knots are nearer to the old function: the normal equations hold."""
    layer, x = layer_of(dtype=torch.float64), torch.randn(400, 3, dtype=torch.float64)
    old = edge_values(layer, x)
    update_grid(layer, x)
    residual = edge_values(layer, x) - old
    slopes = torch.einsum("noi,nki->oki", residual, layer.basis.values(x))
    assert residual.std() < 0.3 * old.std()
    assert slopes.abs().max() < 1e-3 * edge_values(layer, x).abs().sum(0).max()


@pytest.mark.parametrize("samples", ["one", "three", "two values", "a constant feature", "nearly constant", "far away"])
def test_samples_that_say_little_break_nothing(samples):
    x = {
        "one": torch.tensor([[0.1, -0.5, 0.7]]),
        "three": inside(3),
        "two values": torch.randint(0, 2, (60, 3)) * 0.5,
        "a constant feature": torch.cat([torch.full((60, 1), 0.3), inside(60, 2)], 1),
        "nearly constant": 1 + 1e-7 * inside(60),
        "far away": 1000 + inside(60),
    }[samples]
    layer = layer_of()
    y, largest, knots = layer(x), layer.coefficients.abs().max(), layer.basis.knots.clone()
    update_grid(layer, x)
    assert torch.allclose(layer(x), y, atol=0.15 if samples == "a constant feature" else 1e-3)
    assert layer.coefficients.abs().max() < 10 * largest
    assert (layer.basis.knots.diff() > 0).all()
    kept = {"one": [True] * 3, "nearly constant": [True] * 3, "a constant feature": [True, False, False]}
    assert (layer.basis.knots == knots).all(1).tolist() == kept.get(samples, [False] * 3)


def test_few_samples_leave_the_function_between_them():
    layer, points = layer_of(), torch.linspace(-1, 1, 99)[:, None].expand(-1, 3)
    old = edge_values(layer, points)
    update_grid(layer, torch.tensor([[-1.0], [-0.2], [1.0]]).expand(-1, 3), grid_eps=1, margin=0)
    assert (edge_values(layer, points[:-1]) - old[:-1]).abs().max() < 1e-3 * old.abs().max()


def test_many_features_are_fitted_in_parts(monkeypatch):
    layer, x = layer_of(), torch.randn(100, 3)
    other = copy.deepcopy(layer)
    update_grid(layer, x)
    monkeypatch.setattr(grid, "LIMIT", 1)
    update_grid(other, x)
    assert torch.allclose(other.weight, layer.weight, atol=1e-5)


def test_each_layer_of_a_model_sees_what_the_adapted_ones_before_it_give():
    model, x = nn.Sequential(*network(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), *network(3, 1)), torch.randn(200, 2)
    by_hand, state = copy.deepcopy(model).eval(), copy.deepcopy(model[1].state_dict())
    update_grid(model, x)
    update_grid(by_hand[0], x)
    update_grid(by_hand[3], by_hand[:3](x))
    assert torch.equal(model[3].basis.knots, by_hand[3].basis.knots) and torch.equal(model[3].weight, by_hand[3].weight)
    assert model.training and model[2].training and not model[0]._forward_pre_hooks
    assert all(torch.equal(state[key], value) for key, value in model[1].state_dict().items())


def test_update_grid_refuses_what_has_no_grid_or_no_samples():
    layer = layer_of()
    for x in (torch.empty(0, 3), torch.tensor([[0.0, math.nan, 1.0]]), torch.tensor([[0.0, math.inf, 1.0]])):
        with pytest.raises(ValueError, match="one at least, and all of them finite"):
            update_grid(layer, x)
    with pytest.raises(ValueError, match="only splines have a grid"):
        update_grid(layer_of(3, 4, "fourier"), inside())
    with pytest.raises(ValueError, match="must be in"):
        update_grid(layer, inside(), grid_eps=2)
    shared = layer_of(3, 3)
    with pytest.raises(ValueError, match="more than once"):
        update_grid(nn.Sequential(shared, shared), inside())
    assert not shared._forward_pre_hooks
    with pytest.raises(ValueError, match="Linear has no KANLinear"):
        update_grid(nn.Linear(3, 3), inside())


# --- Refinement -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("order", range(6))
def test_a_grid_that_contains_the_old_one_keeps_the_function(order, adapted):
    layer, x = layer_of(order=order, bias=True), inside()
    if adapted:
        update_grid(layer, x)
        x = x * 0.99
    y = layer(x)
    for size in (10, 30):
        refine(layer, size)
        assert layer.basis.grid_size == size and layer.weight.shape == (4, size + order + 1, 3)
        assert layer.basis.even is not adapted
    assert (layer(x) - y).abs().max() < 1e-5 * max(1, y.abs().max())


def test_any_finer_grid_is_near():
    layer, x = layer_of(), inside(2000)
    y = layer(x)
    refine(layer, 7)
    assert 0.001 < (layer(x) - y).std() / y.std() < 0.05


def test_refined_weights_are_parameters_like_the_old_ones():
    layer = layer_of(dtype=torch.bfloat16, base="none").requires_grad_(False)
    layer.alive[1, 2] = 0
    refine(layer, 10)
    assert isinstance(layer.weight, nn.Parameter) and not layer.weight.requires_grad
    assert layer.weight.dtype is torch.bfloat16 and layer.weight.shape == (4, 13, 3)
    assert layer.pruned and not layer.alive[1, 2]
    trained = layer_of()
    refine(trained, 10)
    trained(inside()).sum().backward()
    assert trained.weight.grad.shape == (4, 14, 3)


def test_refining_a_model_refines_its_splines():
    model, x = nn.Sequential(layer_of(2, 3), layer_of(3, 3, "fourier"), layer_of(3, 1)), inside(50, 2)
    refine(model, 10)
    assert [layer.basis.num for layer in model] == [13, 10, 13] and model(x).shape == (50, 1)
    with pytest.raises(ValueError, match="grid_size is 7, and a layer has 10 intervals"):
        refine(model, 7)
    with pytest.raises(ValueError, match="no KANLinear of splines"):
        refine(layer_of(3, 3, "fourier"), 7)


# --- Sizes and penalties ----------------------------------------------------------------------------------------------


def by_the_paper(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Equations 2.17 to 2.19 of the KAN paper for (N, out, in)."""
    sizes = values.abs().mean(0)
    shares = sizes / sizes.sum()
    return sizes.sum(), -(shares * shares.log()).sum()


def test_penalties_are_those_of_the_paper():
    model, x = network(2, 5, 1), inside(50, 2)
    found = penalties(model, x)
    first, second = by_the_paper(edge_values(model[0], x)), by_the_paper(edge_values(model[1], model[0](x)))
    assert found["l1"].item() == pytest.approx((first[0] + second[0]).item(), rel=1e-5)
    assert found["entropy"].item() == pytest.approx((first[1] + second[1]).item(), rel=1e-5)


def test_penalties_are_those_of_pykans_functions():
    official = pytest.importorskip("kan.KANLayer").KANLayer(in_dim=3, out_dim=4)
    layer, x = KANLinear(3, 4), inside()
    with torch.no_grad():
        official.coef.normal_()
        layer.weight[:, 0] = official.scale_base.t()
        layer.coefficients.copy_((official.scale_sp[..., None] * official.coef).permute(1, 2, 0))
    postacts = official(x)[2]
    assert torch.allclose(edge_values(layer, x), postacts, atol=1e-5)
    l1, entropy = by_the_paper(postacts)
    found = penalties(layer, x)
    assert relative_error(found["l1"], l1) < 1e-5 and relative_error(found["entropy"], entropy) < 1e-5


@pytest.mark.parametrize("limit", [functions.CACHED, 100])
def test_gradients_of_the_penalties(limit, monkeypatch):
    monkeypatch.setattr(functions, "CACHED", limit)  # in blocks of three inputs and a feature
    layer, x = layer_of(dtype=torch.float64), inside(7).double().requires_grad_()

    def through(x, weight):
        del layer._parameters["weight"]
        layer.weight = weight
        try:
            return tuple(penalties(layer, x).values())
        finally:
            del layer.weight
            layer.register_parameter("weight", kept)

    kept = layer.weight
    inputs = (x, kept.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(through, inputs)
    assert torch.autograd.gradgradcheck(through, inputs, atol=1e-4)


def test_sizes_in_blocks_are_sizes(monkeypatch):
    layer, x = layer_of(), inside(41)
    whole = edge_sizes(layer, x)
    (gradient,) = torch.autograd.grad(penalties(layer, x)["l1"], layer.weight)
    monkeypatch.setattr(functions, "CACHED", 100)
    assert torch.allclose(edge_sizes(layer, x.view(1, 41, 3)), whole, atol=1e-6)
    assert torch.allclose(torch.autograd.grad(penalties(layer, x)["l1"], layer.weight)[0], gradient, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(edge_sizes(layer, x), whole, atol=1e-6)


@pytest.mark.parametrize("basis", zoo.list_blocks("basis"))
def test_sizes_and_their_gradients_on_every_basis(basis, monkeypatch):
    layer, x, results = layer_of(3, 4, basis), inside(20).requires_grad_(), []
    for eager in (True, False):
        monkeypatch.setattr(functions, "eager", lambda x, eager=eager: eager)
        sizes = edge_sizes(layer, x)
        results.append((sizes, *torch.autograd.grad(sizes.square().sum(), (x, *layer.parameters()))))
    for found, plain in zip(*results, strict=True):
        assert relative_error(found, plain) < 1e-4


def test_penalties_in_a_training_loop():
    model, x = network(2, 5, 1), inside(50, 2)
    with record_inputs(model) as inputs, torch.autocast("cpu", torch.bfloat16):
        loss = model(x).float().square().mean()
        penalty = penalties(model, inputs)
    assert not model[0]._forward_pre_hooks and all(value.dtype is torch.float32 for value in penalty.values())
    (loss + penalty["l1"]).backward(retain_graph=True)
    assert model[0].weight.grad.abs().sum() > 0
    model.zero_grad()
    penalties(model, {"1": inputs["1"]})["l1"].backward()
    assert model[0].weight.grad.abs().sum() > 0  # through the inputs of the second layer
    with torch.no_grad():
        again = penalties(model, x)
    assert relative_error(penalty["l1"], again["l1"]) < 0.02


def test_penalties_of_functions_that_are_zero():
    layer = layer_of()
    with torch.no_grad():
        layer.weight[0] = 0
    layer.alive[1, 2] = 0
    rest = copy.deepcopy(layer)
    l1, entropy = penalties(layer, inside()).values()
    (gradient,) = torch.autograd.grad(l1 + entropy, layer.weight)
    assert gradient.isfinite().all() and (gradient[1, :, 2] == 0).all() and (gradient[0] == 0).all()
    with torch.no_grad():
        rest.weight.zero_()
    for value in penalties(rest, inside()).values():
        assert value == 0 or value < 1e-30
    assert penalties(layer, torch.empty(0, 3))["l1"] == 0


def test_penalties_of_the_weights_alone():
    layer = layer_of()
    sizes = layer.coefficients.abs().mean(1) + layer.weight[:, 0].abs()
    l1, entropy = by_the_paper(sizes[None])
    found = penalties(layer, None)
    assert relative_error(found["l1"], l1) < 1e-6 and relative_error(found["entropy"], entropy) < 1e-6
    bare = layer_of(base="none")
    assert relative_error(penalties(bare, None)["l1"], bare.weight.abs().mean(1).sum()) < 1e-6


# --- Pruning ----------------------------------------------------------------------------------------------------------


def quiet(layer: KANLinear, *pairs: tuple[int, int]) -> KANLinear:
    """Make the functions from input i to output j small."""
    with torch.no_grad():
        for i, j in pairs:
            layer.weight[j, :, i] *= 1e-3
    return layer


def test_pruned_edges_are_zero_functions():
    layer, x = quiet(layer_of(bias=True), (0, 1), (2, 3)), inside()
    zeroed = copy.deepcopy(layer)
    with torch.no_grad():
        zeroed.weight[1, :, 0] = 0
        zeroed.weight[3, :, 2] = 0
    assert prune(layer, x) == {"": 2}
    assert layer.pruned and (layer.alive == 0).nonzero().tolist() == [[1, 0], [3, 2]]
    assert torch.allclose(layer(x), zeroed(x), atol=1e-6)
    assert edge_values(layer, x)[:, 1, 0].abs().max() == 0
    assert prune(layer, x) == {"": 0}


def test_pruned_edges_stay_dead(tmp_path):
    model = zoo.create_model("kan_test")
    for module in model.modules():
        if isinstance(module, KANLinear):
            nn.init.normal_(module.weight)
    layer = quiet(next(m for m in model.modules() if isinstance(m, KANLinear)), (0, 1))
    x = inside(100, 3)
    assert sum(prune(model, x).values()) >= 1 and not layer.alive[1, 0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        assert (layer.weight.grad[1, :, 0] == 0).all() and layer.weight.grad.abs().sum() > 0
        optimizer.step()
    assert edge_values(layer, x)[:, 1, 0].abs().max() == 0
    zoo.save_pretrained(model, tmp_path)
    fresh = zoo.create_model("kan_test")
    fresh.load_state_dict(model.state_dict())
    for other in (zoo.create_model(f"local-dir:{tmp_path}"), copy.deepcopy(model), fresh):
        assert torch.equal(other(x), model(x))
    layer.reset_parameters()
    assert layer.alive.all() and not layer.pruned


def test_scores_are_shares_passed_back():
    model, x = network(3, 4, 2), inside()
    sizes = [edge_sizes(model[0], x), edge_sizes(model[1], model[0](x))]
    last = sizes[1] / sizes[1].amax(1, keepdim=True)
    first = sizes[0] / sizes[0].amax(1, keepdim=True) * last.amax(0)[:, None]
    found = edge_scores(model, x)
    assert torch.allclose(found["0"][1], first) and torch.allclose(found["1"][1], last)


def test_what_leads_nowhere_is_pruned_too():
    model, x = network(3, 4, 2), inside()
    quiet(model[1], (2, 0), (2, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prune(model, x, threshold=0.01) == {"0": 3, "1": 2}
    assert (model[0].alive == 0).nonzero()[:, 0].tolist() == [2, 2, 2]
    y = model(x)
    with torch.no_grad():
        model[0].weight[2] = 100
    assert torch.equal(model(x), y)


def test_where_others_may_read_a_layer_its_edges_are_judged_alone():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = layer_of(3, 3), quiet(layer_of(3, 3), (0, 0), (0, 1), (0, 2))

        def forward(self, x):
            y = self.a(x)
            return y + self.b(y)

    class Chain(Residual):
        def chain(self):
            return [self.a, self.b]

    x = inside()
    torch.manual_seed(1)
    residual = Residual()
    torch.manual_seed(1)
    chain = Chain()
    assert prune(residual, x, threshold=0.005) == {"a": 0, "b": 3}
    assert prune(chain, x, threshold=0.005) == {"a": 3, "b": 3}


def test_an_output_keeps_its_largest_edge_or_says_so():
    layer, x = layer_of(), inside()
    prune(layer, x, threshold=1.0)
    assert layer.alive.sum(1).tolist() == [1, 1, 1, 1]
    with torch.no_grad():
        layer.weight[2] = 0
    with pytest.warns(UserWarning, match=r"outputs \[2\] have no edges left and are constant"):
        assert prune(layer, x) == {"": 1}
    for bad in (-0.1, 1.5):
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            prune(layer, x, threshold=bad)
    for samples in (torch.empty(0, 3), torch.full((2, 3), math.nan)):
        with pytest.raises(ValueError, match="all of them finite"):
            prune(layer_of(), samples)


# --- One edge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", zoo.list_blocks("basis"))
def test_an_edges_function_alone(basis):
    layer, x = layer_of(3, 4, basis), inside(20)
    values = edge_values(layer, x)
    for i, j in ((0, 0), (2, 3)):
        function = edge_function(layer, i, j)
        assert torch.allclose(function(x[:, i]), values[:, j, i], atol=1e-5)
        assert not any(p.requires_grad for p in function.parameters())
    function = edge_function(layer, 1, 2)
    assert function.coefficients.shape == (layer.basis.num,) and function(x.view(4, 5, 3)[..., 1]).shape == (4, 5)
    kept = function(x[:, 1])
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(function(x[:, 1]), kept)  # as it was when it was taken out
    assert torch.equal(function.knots, layer.basis.knots[1]) if basis == "spline" else function.knots is None


def test_a_pruned_edges_function_is_zero():
    layer = layer_of()
    layer.alive[2, 1] = 0
    assert (edge_function(layer, 1, 2)(torch.linspace(-1, 1, 9)) == 0).all()
    for i, j in ((3, 0), (0, 4), (-1, 0)):
        with pytest.raises(ValueError, match="does not exist; the layer has"):
            edge_function(layer, i, j)


# --- Pictures ---------------------------------------------------------------------------------------------------------


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_picture_has_a_curve_for_each_living_edge(tmp_path):
    model, x = network(2, 5, 1), inside(100, 2)
    quiet(model[1], (3, 0))
    prune(model, x, threshold=0.01)
    figure = plot(model, x, input_names=["left", "right"], output_names=["sum"])
    alive = sum(int(layer.alive.sum()) for layer in model)
    assert alive <= 12 and len(figure.axes) == 1 + alive
    assert {"left", "right", "sum"} <= set(texts(figure))
    figure.savefig(tmp_path / "kan.png")
    assert (tmp_path / "kan.png").stat().st_size > 10_000
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_curves_are_the_functions_over_the_range_of_the_data():
    layer, x = layer_of(2, 1), torch.rand(100, 2) * torch.tensor([1.0, 3.0])
    first, second = plot(layer, x).axes[1:]
    for i, axes in enumerate((first, second)):
        (line,) = axes.lines
        points = torch.tensor(line.get_xdata())
        assert points[0] == x[:, i].min() and points[-1] == x[:, i].max()
        assert torch.allclose(torch.tensor(line.get_ydata()), edge_function(layer, i, 0)(points), atol=1e-5)
    sizes = edge_sizes(layer, x)[0]
    opacities = [axes.lines[0].get_alpha() for axes in (first, second)]
    assert (opacities[0] < opacities[1]) == bool(sizes[0] < sizes[1]) and max(opacities) == 1


def test_without_data_the_grid_is_the_range():
    layer = layer_of(2, 1, grid_range=(-2, 3))
    (line,) = plot(layer).axes[1].lines
    assert line.get_xdata()[[0, -1]].tolist() == [-2, 3]
    with pytest.raises(ValueError, match="has no grid; give samples"):
        plot(layer_of(2, 1, "fourier"))


def test_no_small_plots_overlap():
    for widths in ((2, 5, 1), (4, 8, 3), (1, 1), (1, 12, 1)):
        model = network(*widths)
        figure = plot(model, inside(50, widths[0]))
        boxes = [axes.get_position() for axes in figure.axes[1:]]
        assert len(boxes) == sum(a * b for a, b in zip(widths, widths[1:], strict=False))
        for i, box in enumerate(boxes):
            assert min(box.x0, box.y0) > 0 and max(box.x1, box.y1) < 1
            assert not any(box.overlaps(other) for other in boxes[:i])
        assert max(figure.get_size_inches()) < 22


def test_a_large_network_is_drawn_in_parts():
    model, x = network(20, 6, 2), inside(50, 20)
    with pytest.raises(ValueError, match="layer '0' has 120 living edges to draw, and no more than 64.*nodes="):
        plot(model, x)
    with pytest.raises(ValueError, match="level 1 has 21 nodes to draw, and no more than 20"):
        plot(network(1, 21, 1), x[:, :1])
    figure = plot(model, x, nodes=[[3, 19], [1, 2], [0]])
    assert len(figure.axes) == 1 + 4 + 2 and {"x3", "x19", "y0"} <= set(texts(figure))
    for nodes, match in (([None, None], "3 levels"), ([[20], None, None], "0 to 19"), ([[], None, None], "0 to 19")):
        with pytest.raises(ValueError, match=match):
            plot(model, x, nodes=nodes)


def test_pictures_that_cannot_be(monkeypatch):
    with pytest.raises(ValueError, match="each must feed the next"):
        plot(nn.ModuleList([layer_of(2, 3), layer_of(2, 3)]))
    with pytest.raises(ValueError, match="input_names is .* it must be 2 names"):
        plot(layer_of(2, 1), input_names=["a"])
    with pytest.raises(ValueError, match="all finite"):
        plot(layer_of(2, 1), torch.full((3, 2), math.nan))
    constant = plot(layer_of(2, 1).bfloat16(), torch.zeros(5, 2).bfloat16())
    assert len(constant.axes) == 3
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="plot needs matplotlib; install it"):
        plot(layer_of(2, 1))
