"""`kan` takes any basis as a channel mixer; its names for single bases are the same mixer under other names."""

import inspect
import json

import pytest
import torch
from torch import nn

import zoo
from zoo.blocks.channel.kan import ALIASES, KAN
from zoo.blocks.kan.bases.base import Basis
from zoo.checks import hints_of
from zoo.checks.ranges import Frequencies, Width
from zoo.slots import options_of
from zoo.slots.table import blocks_of

OF_KAN = ["base", "bias", "norm", "drop", "ratio", "hidden"]


def model_of(slot) -> nn.Module:
    return zoo.create_model("mixer_test", channel_mixer=slot)


def train_and_save(slot, folder) -> nn.Module:
    """A model of a mixer that took a step of training, is saved and opens again with equal outputs."""
    model, x = model_of(slot), torch.randn(4, 3, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = nn.functional.cross_entropy(model(x), torch.arange(4))
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    assert nn.functional.cross_entropy(model(x), torch.arange(4)) < before
    zoo.save_pretrained(model, folder)
    again = zoo.create_model(f"local-dir:{folder}").eval()
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))
    return again


def saved_slot(folder) -> str:
    return json.loads((folder / "config.json").read_text("utf-8"))["zoo"]["model_args"]["channel_mixer"]


@pytest.mark.parametrize("basis", zoo.list_blocks("basis"))
def test_every_basis_is_a_channel_mixer(basis, tmp_path):
    model = train_and_save(f"kan(basis='{basis}')", tmp_path)
    mixer = model.blocks[0].channel_mixer
    assert type(mixer) is KAN and type(mixer.fc1.basis) is type(mixer.fc2.basis) is blocks_of("basis")[basis]
    assert saved_slot(tmp_path) == f"kan(basis='{basis}')"


def test_a_basis_from_outside_is_a_channel_mixer(tmp_path):
    @zoo.register_block("basis", "hats")
    class Hats(Basis):
        """Broken lines around whole numbers."""

        base = "none"

        def __init__(self, features: Width, *, count: Frequencies = 4, device=None, dtype=None):
            super().__init__(features)
            self.num, self.macs = count, count

        def values(self, x):
            centres = torch.arange(self.num, device=x.device, dtype=x.dtype) - (self.num - 1) / 2
            return (1 - (x.unsqueeze(-2) - centres[:, None]).abs()).relu()

    try:
        model = train_and_save({"name": "kan", "basis": "hats(count=3)", "ratio": 1}, tmp_path)
        mixer = model.blocks[0].channel_mixer
        assert mixer.fc1.basis.num == 3 and mixer.fc1.weight.shape == (32, 3, 32)
        with pytest.raises(ValueError, match="basis hats has no option 'number'"):
            model_of("kan(basis='hats(number=3)')")
    finally:
        del zoo.slots.table._BLOCKS["basis"]["hats"]


@pytest.mark.parametrize("name", ALIASES)
def test_an_alias_is_kan_with_its_defaults(name):
    alias = ALIASES[name]
    options = dict(alias.defaults)
    own = {key: options.pop(key) for key in options_of(alias.functions) if key in options}
    torch.manual_seed(3)
    by_alias = zoo.create_block("channel_mixer", name, 12)
    torch.manual_seed(3)
    by_kan = zoo.create_block("channel_mixer", {"name": "kan", "basis": {"name": alias.basis, **own}, **options}, 12)
    a, b, x = by_alias.state_dict(), by_kan.state_dict(), torch.randn(2, 5, 12)
    assert list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)
    assert torch.equal(by_alias(x), by_kan(x))
    assert isinstance(by_alias, KAN) and type(by_alias) is getattr(zoo.blocks, alias.class_name)


@pytest.mark.parametrize("name", ALIASES)
def test_the_options_of_an_alias_are_those_of_its_basis_and_of_kan(name):
    alias, cls = ALIASES[name], blocks_of("channel_mixer")[name]
    of_the_basis = options_of(alias.functions)
    assert options_of(cls) == [*of_the_basis, *OF_KAN]
    takes, hints = inspect.signature(cls).parameters, hints_of(cls)
    for source, options in ((alias.functions, of_the_basis), (KAN, OF_KAN)):
        for option in options:
            assert hints[option] == hints_of(source)[option]
            default = alias.defaults.get(option, inspect.signature(source).parameters[option].default)
            assert takes[option].default == default
    assert list(takes)[-2:] == ["device", "dtype"]
    assert alias.about in str(zoo.block_info("channel_mixer", name))


@pytest.mark.parametrize(
    "name, keys",
    [
        ("spline_kan", ["basis.knots"]),
        *((name, []) for name in ("rbf_kan", "chebyshev_kan", "fourier_kan")),
        ("wavelet_kan", ["basis.rate", "basis.translation"]),
        ("rational_kan", ["basis.denominator"]),
    ],
)
def test_keys_of_the_state(name, keys):
    bias = [] if name == "chebyshev_kan" else ["bias"]
    of_a_layer = [*["weight"], *bias, "alive", *keys]
    expected = {f"{fc}.{key}" for fc in ("fc1", "fc2") for key in of_a_layer} | {"norm.weight", "norm.bias"}
    assert set(zoo.create_block("channel_mixer", name, 8).state_dict()) == expected


@pytest.mark.parametrize("slot", [{"name": "spline_kan", "grid_size": 3}, "rational_kan(degrees=(3, 2), ratio=1)"])
def test_an_alias_is_saved_under_its_name(slot, tmp_path):
    model = train_and_save(slot, tmp_path)
    assert saved_slot(tmp_path) == ("spline_kan(grid_size=3)" if isinstance(slot, dict) else slot)
    alias = ALIASES["spline_kan" if isinstance(slot, dict) else "rational_kan"]
    assert type(model.blocks[0].channel_mixer).__name__ == alias.class_name


@pytest.mark.parametrize(
    "slot, message",
    [
        ("rbf_kan(grid_size=3)", "channel_mixer rbf_kan has no option 'grid_size'; did you mean 'grid_range'"),
        ("spline_kan(basis='rbf')", "channel_mixer spline_kan has no option 'basis'"),
        ("rbf_kan(num=1)", "channel_mixer rbf_kan: num is 1; it must be from 2 to 4096"),
        ("spline_kan(grid_range=(1, -1))", r"spline has grid_range=\(1, -1\); it must be \(low, high\)"),
        ("wavelet_kan(kind='haar')", "channel_mixer wavelet_kan: kind is 'haar'; it must be one of"),
        ("kan(basis='splin')", "basis 'splin' is unknown; did you mean 'spline'"),
        ("kan(basis='none')", "needs a basis"),
        ("kan(grid_size=3)", "channel_mixer kan has no option 'grid_size'"),
    ],
)
def test_refusals(slot, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_block("channel_mixer", slot, 8)
