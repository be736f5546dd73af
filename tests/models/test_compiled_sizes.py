"""Compiled models, and at a second image size: windows get a program for each size, everything else one for all."""

import pytest
import torch
from conftest import TEST_VARIANTS, images, randomised, some_of

import zoo


def cuts_grid(name: str) -> bool:
    with torch.device("meta"):
        return any(getattr(module, "cuts_grid", False) for module in zoo.create_model(name).modules())


WINDOWED = [(name, {}) for name in TEST_VARIANTS if cuts_grid(name)]
HYBRID = [
    ("mixer_test", {"token_mixer": "shifted_window(window_size=2)"}),
    ("vit_test", {"token_mixer": "window", "class_token": False, "global_pool": "avg", "dynamic_img_size": True}),
    ("poolformer_test", {"token_mixer": ["pool", "pool", "pool", "shifted_window_mlp"]}),
]


def compiled_at(call, *sizes):
    """Runs a compiled call on inputs of sizes; gives the graphs that were made, and how many sizes each left open."""
    torch.compiler.reset()
    found = []

    def backend(graph, inputs):
        found.append(sum(isinstance(x, torch.SymInt) for x in inputs))
        return graph

    compiled = torch.compile(call, backend=backend, fullgraph=True)
    with torch.no_grad():
        for size in sizes:
            x = torch.randn(size)
            assert torch.allclose(compiled(x), call(x), atol=1e-5), size
    return found


@pytest.mark.parametrize("name", some_of(TEST_VARIANTS, 6))
def test_forward_and_backward(name):
    model = randomised(zoo.create_model(name))
    x = images(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), model(x), atol=1e-5)
    compiled(x).square().mean().backward()


@pytest.mark.parametrize(
    ("name", "options"),
    [pytest.param(*one, marks=[pytest.mark.slow] * (i % 3 > 0)) for i, one in enumerate(WINDOWED + HYBRID)],
)
def test_windows_have_a_program_for_each_size(name, options):
    model = randomised(zoo.create_model(name, **options))
    channels, height, width = model.input_size
    sizes = [(2, channels, height, width), (2, channels, height + 32, width + 32), (2, channels, height, width)]
    assert compiled_at(model, *sizes) == [0, 0]


def test_a_batch_may_change_with_the_size():
    model = randomised(zoo.create_model("mixer_test", token_mixer="shifted_window"))
    assert compiled_at(model, (2, 3, 32, 32), (3, 3, 64, 32), (5, 3, 64, 32), (3, 3, 32, 64)) == [0, 1, 1]


@pytest.mark.parametrize("mixer", ["shifted_window(window_size=4)", "shifted_window_mlp(window_size=4)"])
def test_a_mixer_of_windows_alone(mixer):
    mixer = randomised(zoo.create_block("token_mixer", mixer, dim=16, grid=(8, 8)))
    assert compiled_at(mixer, (2, 8, 8, 16), (2, 12, 16, 16), (2, 9, 10, 16)) == [0, 0, 0]


def test_maps_of_a_model_with_windows():
    model = zoo.create_model("mixer_test", token_mixer="window", features_only=True).eval()
    assert compiled_at(lambda x: model(x)[-1], (2, 3, 32, 32), (2, 3, 64, 64)) == [0, 0]


@pytest.mark.parametrize("name", ["convnext_test", "vit_test", pytest.param("poolformer_test", marks=pytest.mark.slow)])
def test_models_without_windows_have_one_program_for_all_sizes(name):
    options = {"dynamic_img_size": True} if name == "vit_test" else {"depths": [1, 1], "dims": [8, 8]}
    model = randomised(zoo.create_model(name, **options))
    channels, height, width = model.input_size
    sizes = [(2, channels, height + more, width + more) for more in (0, 32, 64)]
    graphs = compiled_at(model, *sizes)
    assert len(graphs) == 2 and graphs[0] == 0 and graphs[1] >= 1


def test_an_exporter_keeps_the_sizes_open_that_it_was_told():
    mixer = randomised(zoo.create_block("token_mixer", "window(window_size=4)", dim=16, grid=(8, 8)))
    shape = {0: torch.export.Dim("batch"), 1: 4 * torch.export.Dim("rows", min=3, max=99)}
    for strict in (False, True):
        program = torch.export.export(mixer, (torch.randn(2, 12, 8, 16),), dynamic_shapes=(shape,), strict=strict)
        x = torch.randn(3, 20, 8, 16)
        assert torch.allclose(program.module()(x), mixer(x), atol=1e-5)
