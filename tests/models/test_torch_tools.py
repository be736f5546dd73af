"""What people use on torch's models works on zoo's: quantisation, adapters, pruning, symbolic tracing."""

import re
import warnings

import pytest
import timm
import torch
from conftest import TEST_VARIANTS, TIMM_VARIANTS, TINY_VARIANTS, images, randomised, relative_error
from torch import nn
from torch.nn.utils import prune
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import zoo
from zoo.blocks.moe.routers.base import Router
from zoo.skeletons.features import FeatureMaps

LAYERS = (nn.Linear, nn.Conv2d)


def layers(model: nn.Module, kinds=LAYERS) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def quantise(model: nn.Module, inplace: bool = False) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that torchao takes this over
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=inplace)


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_linear_maps_and_convolutions_are_of_torch_s_own_classes(name):
    assert {type(module) for module in layers(zoo.create_model(name, device="meta")).values()} <= set(LAYERS)


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_dynamic_quantisation_takes_every_linear_map(name):
    model = randomised(zoo.create_model(name), 0.02)
    quantised = quantise(model)
    count = sum(type(module) is torch.ao.nn.quantized.dynamic.Linear for module in quantised.modules())
    x = images(model)
    assert count == len(layers(model, nn.Linear))
    with torch.no_grad():
        found, expected = quantised(x), model(x)
    assert count == 0 or 0 < relative_error(found, expected) < 0.2


class Adapter(nn.Module):
    """A layer inside another module, which has no attribute of the layer's; it adds a map that begins at zero."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        shape = (width,) if isinstance(layer, nn.Linear) else (width, 1, 1)
        self.shift = nn.Parameter(torch.zeros(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.shift.to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_an_adapter_around_any_layer_is_called(name, dtype):
    model = randomised(zoo.create_model(name)).to(dtype)
    x = images(model).to(dtype)
    with torch.no_grad():
        before = model(x)
    for layer_name, layer in layers(model).items():
        owner, _, attribute = layer_name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, Adapter(layer).to(dtype))
    after = model(x)
    if dtype is torch.float32:
        assert relative_error(after.detach(), before) < 1e-5
    assert after.isfinite().all()  # in 16 bits a router's gate inside an adapter may choose other experts
    after.float().square().sum().backward()
    missed = [n for n, module in model.named_modules() if isinstance(module, Adapter) and module.shift.grad is None]
    assert not missed
    for module in model.modules():
        if isinstance(module, Adapter):
            nn.init.normal_(module.shift)
    with torch.no_grad():
        assert not layers(model) or not torch.allclose(model(x), before)


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_pruned_weights_are_what_the_forward_pass_multiplies_with(name):
    model = randomised(zoo.create_model(name))
    x, pruned = images(model), list(layers(model).values())
    for layer in pruned:
        prune.l1_unstructured(layer, "weight", amount=0.5)
        layer.weight_orig.data.mul_(1.5)  # as an optimizer does; torch takes it over in a hook of the call
    with torch.no_grad():
        masked = model(x)
        for layer in pruned:
            prune.remove(layer, "weight")
        assert relative_error(masked, model(x)) < 1e-5


@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_a_quantised_model_changes_its_size_and_its_classifier(name):
    model = randomised(zoo.create_model(name))
    size = tuple(2 * side for side in model.input_size[1:])
    quantised = quantise(model)
    try:
        model.set_input_size(size)
    except ValueError as error:  # no weights of its kind can be resampled
        with pytest.raises(ValueError, match=re.escape(str(error))):
            quantised.set_input_size(size)
        return
    quantised.set_input_size(size)
    x = images(model)
    with torch.no_grad():
        assert relative_error(quantised(x), model(x)) < 0.2
    quantised.reset_classifier(3)
    assert quantised(x).shape == (2, 3)


@pytest.mark.parametrize(
    "tool",
    [
        lambda model, gates: quantise(model, inplace=True),
        lambda model, gates: [prune.l1_unstructured(gate, "weight", 0.5) for gate in gates],
        lambda model, gates: [nn.utils.parametrizations.weight_norm(gate) for gate in gates],
    ],
    ids=["quantised", "pruned", "parametrised"],
)
def test_gates_over_tokens_that_a_tool_has_taken_are_not_resampled(tool):
    model = randomised(zoo.create_model("sparse_mlp_test", token_mixer="token_moe(num_experts=4)"))
    tool(model, [module.gate for module in model.modules() if isinstance(module, Router)])
    x = images(model)
    with torch.no_grad():
        before = model(x)
        with pytest.raises(ValueError, match="a gate of token_moe was quantised, pruned, .* set the input size before"):
            model.set_input_size(tuple(2 * side for side in model.input_size[1:]))
        assert torch.equal(model(x), before)


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_symbolic_tracing_gives_the_same_function(name):
    model = randomised(zoo.create_model(name))
    graph = torch.fx.symbolic_trace(model)
    for batch in (1, 3):
        x = images(model, batch)
        assert relative_error(graph(x), model(x)) < 1e-5


@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_feature_extraction_by_the_names_of_nodes(name):
    model = randomised(zoo.create_model(name))
    last = model.feature_info[-1]["module"]
    x, seen = images(model), []
    extractor = create_feature_extractor(model, {last: "last"})
    model.get_submodule(last).register_forward_hook(lambda module, args, y: seen.append(y))
    model(x)
    found, expected = (y[0] if isinstance(y, tuple) else y for y in (extractor(x)["last"], seen[0]))
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_a_giver_of_feature_maps_can_be_traced(name):
    models = [
        FeatureMaps(zoo.create_model(name), (0, -1), output_fmt=fmt, norm=fmt == "NLC") for fmt in ("NCHW", "NLC")
    ]
    for model in map(randomised, models):
        graph, x = torch.fx.symbolic_trace(model), images(model.model, 3)
        found, expected = graph(x), model(x)
        assert len(found) == len(expected) == len(model.out_indices)
        assert all(relative_error(*pair) < 1e-5 for pair in zip(found, expected, strict=True))
        last = f"model.{model.feature_info.module_name()[-1]}"  # a node of the graph inside the wrapper
        assert "last" in create_feature_extractor(model, {last: "last"})(x)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM_VARIANTS)
def test_whatever_of_timm_can_be_traced_can_be_traced_here(name):
    for options in ({}, {"num_classes": 0, "global_pool": ""}, {"features_only": True}):
        with torch.device("meta"):
            theirs, ours = (library.create_model(name, **options) for library in (timm, zoo))
        try:
            names = get_graph_node_names(theirs)
        except (TypeError, torch.fx.proxy.TraceError):
            continue
        assert all(names) and all(get_graph_node_names(ours))  # in training and in evaluation


def test_lora_of_peft():
    peft = pytest.importorskip("peft")
    for name in TINY_VARIANTS:
        model = randomised(zoo.create_model(name))
        plain = [n for n, m in layers(model).items() if getattr(m, "groups", 1) == 1]
        if not plain:
            continue
        x = images(model)
        before = model(x)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=plain))
        assert relative_error(adapted(x), before) < 1e-5
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                nn.init.normal_(parameter, std=0.1)
        moved = adapted(x)
        assert relative_error(adapted.merge_and_unload()(x), moved) < 1e-4 < relative_error(before, moved)


def test_weights_of_eight_bits_by_torchao():
    quantization = pytest.importorskip("torchao.quantization")
    for name in TINY_VARIANTS:
        model = randomised(zoo.create_model(name))
        x = images(model)
        with torch.no_grad():
            before = model(x)
            quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
            assert relative_error(model(x), before) < 0.1
        assert all(type(layer.weight) is not nn.Parameter for layer in layers(model, nn.Linear).values())
