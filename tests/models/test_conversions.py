"""Models made under another default precision, and models moved to another memory format."""

import copy

import pytest
import torch
from conftest import TEST_VARIANTS, TINY_VARIANTS, randomised, relative_error
from torch import nn

import zoo
from zoo.blocks.channel.gr_kan import COEFFICIENTS
from zoo.blocks.token.kan_conv import KANConv2d
from zoo.blocks.token.select_kan_conv import SelectKANConv2d
from zoo.slots.table import blocks_of

MIXERS = [(kind, name) for kind in ("token_mixer", "channel_mixer", "norm") for name in zoo.list_blocks(kind)]
PARTS = [
    *(("mixer_test", {kind: name}) for kind, name in MIXERS),
    *(("poolformer_test", {"token_mixer": name}) for kind, name in MIXERS if kind == "token_mixer"),
    *(
        ("mixer_test", {"channel_mixer": {"name": "moe", "num_experts": 4, kind: name}})
        for kind in ("router", "experts", "dispatch")
        for name in zoo.list_blocks(kind)
    ),
    *(("mixer_test", {"channel_mixer": {"name": "mlp", "act": name}}) for name in zoo.list_blocks("act")),
    *(("mixer_test", {"channel_mixer": f"gr_kan(rational='{name}')"}) for name in COEFFICIENTS),
    *(("mixer_test", {"channel_mixer": f"gr_kan(weights='{name}')"}) for name in blocks_of("init")),
    *(("kan_function", {"layer": name}) for name in [*zoo.list_blocks("basis"), "select", "none"]),
    *(("mixer_test", {"stem": name}) for name in zoo.list_blocks("stem") if name != "none"),
]
PRECISIONS = [torch.bfloat16, torch.float16, torch.float64]


@pytest.fixture
def default_precision():
    """Sets the default, as loaders of large models do."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


def check(name: str, slots: dict, dtype: torch.dtype, set_default) -> None:
    set_default(dtype)
    model = zoo.create_model(name, **slots)
    assert {p.dtype for p in model.parameters()} == {dtype}
    y = model(torch.randn(2, *model.input_size))
    assert y.dtype is dtype and y.isfinite().all()
    y.float().sum().backward()
    if dtype is not torch.float16:  # its gradients are for losses that are scaled
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_families_made_under_another_default_precision(name, dtype, default_precision):
    check(name, {}, dtype, default_precision)


@pytest.mark.parametrize("number", range(len(PARTS)))
def test_parts_made_under_another_default_precision(number, default_precision):
    """Each in one of the precisions."""
    name, slots = PARTS[number]
    check(name, slots, PRECISIONS[number % len(PRECISIONS)], default_precision)


@pytest.mark.parametrize(
    "kind, slot", [("token_mixer", "attention(heads=4, init='mimetic')"), ("channel_mixer", "gr_kan")]
)
def test_what_is_computed_for_a_start_is_the_same_but_for_rounding(kind, slot, default_precision):
    """Decompositions and variances: drawn and computed in fp32."""
    made = []
    for dtype in (torch.float32, torch.bfloat16):
        default_precision(dtype)
        torch.manual_seed(0)
        made.append(zoo.create_block(kind, slot, dim=32))
    for one, other in zip(*(block.parameters() for block in made), strict=True):
        assert torch.allclose(one, other.float(), rtol=0.01, atol=1e-5)


# --- Memory formats ---------------------------------------------------------------------------------------------------

CHANNELS_LAST = [
    *((name, {}) for name in TEST_VARIANTS),
    *(("mixer_test", {kind: name}) for kind, name in MIXERS if kind != "norm"),
    *(("convnext_test", {kind: name}) for kind, name in MIXERS if "kan" in name),
]


@pytest.mark.parametrize("name, slots", CHANNELS_LAST)
def test_channels_last(name, slots):
    """All is as before: the values, and the shapes in the state."""
    model = randomised(zoo.create_model(name, **slots))
    x = torch.randn(2, *model.input_size)
    before, y = copy.deepcopy(model.state_dict()), model(x)
    for moved in (model.to(memory_format=torch.channels_last), copy.deepcopy(model)):
        assert relative_error(moved(x.to(memory_format=torch.channels_last)), y) < 1e-4
        for key, tensor in moved.state_dict().items():
            assert torch.equal(tensor, before[key]), key


def kan_convs() -> dict[str, nn.Module]:
    return {
        "one group": KANConv2d(4, 6, 3, bias=True),
        "two groups": KANConv2d(4, 6, 3, groups=2),
        "one channel": KANConv2d(1, 6, 1),
        "select": SelectKANConv2d(4, 6, 3, bases=("rbf", "wavelet")),
    }


@pytest.mark.parametrize("kind", kan_convs())
def test_learnt_convolutions_in_other_formats(kind):
    """As torch's own layer: one format fits, the other, of convolutions in space, is refused and changes nothing."""
    layer = kan_convs()[kind]
    x = torch.randn(2, 5, 5, layer.in_features)
    y, weight = layer(x), layer.weight.detach().clone()
    layer(x).sum().backward()
    gradient = layer.weight.grad.clone()
    for other in (layer, nn.Conv2d(3, 4, 3)):
        with pytest.raises(RuntimeError, match="required rank 5"):
            other.to(memory_format=torch.channels_last_3d)
    assert torch.equal(layer(x), y) and torch.equal(layer.weight, weight)
    layer.to(memory_format=torch.channels_last)
    assert torch.equal(layer.weight, weight) and torch.equal(layer.weight.grad, gradient)
    assert torch.allclose(layer(x), y, atol=1e-5)
    flat = layer.weight.flatten(1, 2)  # a view: what the convolution takes lies in memory as it is asked for
    assert flat.data_ptr() == layer.weight.data_ptr() and flat.is_contiguous(memory_format=torch.channels_last)
    again = kan_convs()[kind]
    again.load_state_dict(layer.state_dict())
    assert torch.allclose(again(x), y, atol=1e-5)
    layer.zero_grad()
    layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, gradient, atol=1e-4)
    assert layer.to(torch.float64).weight.dtype is torch.float64 and layer.to("meta").weight.shape == weight.shape
    assert layer.to_empty(device="cpu").weight.shape == weight.shape
