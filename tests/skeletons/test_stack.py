"""Models of vectors: built, trained, saved, counted and refused like those of images."""

import copy

import pytest
import timm
import torch
from conftest import VECTOR_VARIANTS, images, randomised

import zoo
from zoo.blocks.kan.linear import KANLinear
from zoo.registry import family_of
from zoo.tools.kan.grid import refine

LAYERS = ["none", *zoo.list_blocks("basis"), "select(bases=['spline', 'fourier'])"]


def test_vectors_are_no_timm_models():
    assert VECTOR_VARIANTS and not any(timm.is_model(name) for name in VECTOR_VARIANTS)
    assert not any(family_of(name).model.vision for name in VECTOR_VARIANTS)
    assert set(zoo.list_models(task="regression")) == set(zoo.list_models(family="kan"))


@pytest.mark.parametrize("name", VECTOR_VARIANTS)
def test_forward_and_its_parts(name):
    model = randomised(zoo.create_model(name))
    x = images(model)
    assert x.shape == (2, 3) and model(x).shape == (2, model.num_classes)
    assert model.forward_features(x).shape == (2, model.num_features) == (2, 4)
    assert torch.equal(model.get_classifier()(model.forward_features(x)), model(x))
    assert torch.allclose(model(x.expand(5, 2, 3)), model(x).expand(5, 2, -1), atol=1e-6)
    outputs, aux = model(x, return_aux=True)
    assert torch.equal(outputs, model(x)) and aux == {}
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) == (2, model.num_classes)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_learns_travels_and_is_counted(layer, tmp_path):
    """A basis, the selection of one, and plain linear layers, in a stack."""
    model = zoo.create_model("kan_test", layer=layer)
    x = torch.rand(64, 3) * 2 - 1
    y = torch.stack([x[:, 0] * x[:, 1], (3 * x[:, 2]).sin()], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    zoo.save_pretrained(model, tmp_path)
    assert torch.equal(zoo.create_model(f"local-dir:{tmp_path}").eval()(x), model.eval()(x))
    assert (
        zoo.count_flops(model).macs >= sum(p.numel() for p in model.parameters() if p.ndim > 1 and p.shape[1] > 1) / 2
    )
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    torch.compiler.reset()
    assert torch.allclose(compiled(x), model(x), atol=1e-5)


def test_layers_that_select_report_it():
    model = zoo.create_model("kan_test", layer="select(bases=['spline', 'fourier'])")
    _, aux = model(torch.randn(2, 3), return_aux=True)
    assert aux["loss/selection"].item() == pytest.approx(1.0) and len(aux["stat/selection"]) == 2
    aux["loss/selection"].backward()
    model.body[0].select()
    _, aux = model(torch.randn(2, 3), return_aux=True)
    assert aux["loss/selection"].item() == pytest.approx(0.5)


class Doubled(torch.nn.Linear):
    """A layer of a user's, which reports something."""

    def forward(self, x):
        return 2 * super().forward(x)

    def report(self):
        return {"loss/weight": self.weight.square().sum()}


def test_a_class_is_a_layer_and_a_class_of_functions_a_basis():
    model = zoo.create_model("kan_test", layer=Doubled)
    assert [type(layer) for layer in model.chain()] == [Doubled] * len(model.chain())
    _, aux = model(torch.randn(2, 3), return_aux=True)
    expected = torch.stack([layer.weight.square().sum() for layer in model.chain()]).mean()
    assert torch.allclose(aux["loss/weight"], expected)
    assert type(zoo.create_model("kan_test", layer=zoo.blocks.Fourier).head) is KANLinear


def test_layers_of_different_kinds_and_their_options():
    model = zoo.create_model("kan_test", hidden=[6, 5], layer=["spline(grid_size=3, order=2)", "none", "fourier"])
    kinds = [type(module).__name__ for module in (*model.body, model.head)]
    assert kinds == ["KANLinear", "Linear", "SiLU", "KANLinear"]
    assert model.body[0].basis.num == 5 and model.body[1].bias is not None and model.body[0].bias is None
    assert zoo.create_model("kan_test", bias=True).head.bias is not None
    assert type(zoo.create_model("kan_test", norm="layernorm").body[1]).__name__ == "LayerNorm"
    assert zoo.create_model("kan_test", drop_rate=0.5).train().head_drop.p == 0.5


def test_the_mlp_twins_have_at_least_the_parameters():
    count = lambda name: sum(p.numel() for p in zoo.create_model(name, device="meta").parameters())
    for name in zoo.list_models("kan_*"):
        if name.replace("kan_", "mlp_") in zoo.list_models(family="kan"):
            assert count(name) <= count(name.replace("kan_", "mlp_")) < 1.2 * count(name)


def test_costs_by_hand():
    """[2, 5, 1]: nine rows an edge, twelve MACs of evaluation an input."""
    report = zoo.count_flops(zoo.create_model("kan_function"))
    assert report.params == 9 * (2 * 5 + 5) and report.macs == 9 * (2 * 5 + 5) + 12 * (2 + 5)


def test_a_refined_grid_is_saved_and_loaded(tmp_path):
    """Also in a model of images: the file decides about the size of the grid."""
    for name, options in (("kan_test", {}), ("mixer_test", {"channel_mixer": "spline_kan"})):
        model = zoo.create_model(name, **options).eval()
        x = images(model).clamp(-1, 1)
        before = model(x)
        for module in model.modules():
            if isinstance(module, KANLinear):
                refine(module, 2 * module.basis.grid_size)
        zoo.save_pretrained(model, tmp_path / name)
        again = zoo.create_model(f"local-dir:{tmp_path / name}").eval()
        assert torch.equal(again(x), model(x))
        if name == "kan_test":  # all inputs are inside the grids
            assert torch.allclose(model(x), before, atol=1e-5)
        assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(features_only=True), "takes vectors and has no feature maps"),
        (dict(img_size=8), "no argument 'img_size'"),
        (dict(hidden=[]), r"hidden is \[\], 0 entries"),
        (dict(hidden=[4, 0]), r"hidden\[1\] is 0; it must be from 1"),
        (dict(layer="splin"), "did you mean 'spline'"),
        (dict(layer="spline(grid=3)"), "did you mean 'grid_size'"),
        (dict(layer=["spline"] * 3), "layer has 3 entries for 2"),
        (dict(num_classes=-1), "num_classes is -1"),
        (dict(drop_rate=1.0), "drop_rate is 1.0"),
        (dict(pretrained=True), "no weights are published"),
        (dict(pretrained_cfg="tag"), "no weights with the tag"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model("kan_test", **arguments)


def test_another_number_of_inputs_is_refused():
    with pytest.raises(ValueError, match="last dimension must be the 3"):
        zoo.create_model("kan_test")(torch.randn(2, 4))
