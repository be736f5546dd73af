"""HyperMixing: the authors' layer, masks, and what follows from its weights being made of the positions."""

import pytest
import torch
from conftest import DATA, relative_error
from safetensors.torch import load_file

import zoo
from zoo.blocks.token.hypermixing import HyperMixing, sinusoids

NAMES = {
    "hyper.w1_gen.fc": "w1.fc",
    "hyper.w2_gen.fc": "w2.fc",
    "_weights": "",
    "layer_norm": "norm",
}


@pytest.fixture
def official() -> dict[str, torch.Tensor]:
    return {k: v.float() for k, v in load_file(DATA / "hypermixing.safetensors").items()}


def renamed(key: str) -> str:
    for old, new in NAMES.items():
        key = key.replace(old, new)
    return key.removeprefix("weights.")


@pytest.mark.parametrize("grid", [(12,), (2, 3)])  # as many sinusoids as are kept, and more
def test_outputs_equal_the_authors_with_and_without_a_mask(official, grid):
    mixer = HyperMixing(16, hidden=24, heads=2, grid=grid)
    mixer.load_state_dict({renamed(k): v for k, v in official.items() if k.startswith("weights.")})
    with torch.no_grad():
        assert relative_error(mixer(official["x"]), official["y"]) < 1e-5
        assert relative_error(mixer(official["x"], mask=official["mask"]), official["masked"]) < 1e-5
        assert relative_error(mixer(official["x"]), official["masked"]) > 0.1


def test_what_is_masked_reaches_nothing():
    mixer = HyperMixing(8, heads=2, grid=(3, 4))
    x, mask = torch.randn(2, 3, 4, 8, requires_grad=True), torch.rand(2, 3, 4) < 0.6
    (gradient,) = torch.autograd.grad(mixer(x, mask=mask)[mask].square().sum(), x)
    assert not gradient[~mask].any() and gradient[mask].any()
    with pytest.raises(ValueError, match=r"mask is \(2, 11\) for 12 positions"):
        mixer(x, mask=torch.ones(2, 11))


def test_without_positions_it_is_equivariant_to_their_order_and_with_them_it_is_not():
    order, x = torch.randperm(9), torch.randn(2, 9, 8)
    for positions, equal in (("none", True), ("sinusoid", False)):
        mixer = HyperMixing(8, positions=positions, grid=(9,))
        assert torch.allclose(mixer(x[:, order]), mixer(x)[:, order], atol=1e-5) is equal


def test_its_cost_grows_with_the_number_of_positions_alone():
    costs = [
        zoo.count_flops(HyperMixing(8, heads=2, ratio=3, grid=(n,)), inputs=(torch.randn(1, n, 8),)).macs
        for n in (5, 10, 200)
    ]
    per_position = (2 * 8 * 8 + 4 * 8 * 24) // 2
    assert costs == [5 * per_position, 10 * per_position, 200 * per_position]


def test_one_network_makes_both_maps_if_they_are_tied():
    free, tied = (HyperMixing(8, tied=tied, grid=(4,)) for tied in (False, True))
    count = lambda m: sum(p.numel() for p in m.parameters())
    assert count(free) - count(tied) == count(tied.w1) == 8 * 8 + 32 * 8
    x = torch.randn(2, 4, 8)
    free.w1.load_state_dict(tied.w1.state_dict())
    free.w2.load_state_dict(tied.w1.state_dict())
    torch.testing.assert_close(tied(x), free(x))


def test_widths_are_multiples_of_the_heads():
    with pytest.raises(ValueError, match="3 heads and a dim of 8"):
        HyperMixing(8, heads=3, grid=(4,))
    with pytest.raises(ValueError, match="4 heads and a hidden width of 6"):
        HyperMixing(8, heads=4, hidden=6, grid=(4,))


def test_sinusoids_go_with_the_grid_and_are_not_saved():
    mixer = HyperMixing(6, grid=(2, 2))
    assert "table" not in mixer.state_dict() and len(mixer.table) == 5  # a class token has one too
    mixer.set_grid((4, 5))
    assert torch.equal(mixer.table, sinusoids(21, 6))


def test_a_model_takes_a_mask_and_a_class_token():
    model = zoo.create_model("hypermixer_test", class_token=True).eval()
    x, mask = torch.randn(2, 3, 32, 32), torch.ones(2, 17)
    y = model(x, mask=mask)
    torch.testing.assert_close(y, model(x))
    mask[:, 5] = 0
    assert not torch.allclose(model(x, mask=mask), y)
