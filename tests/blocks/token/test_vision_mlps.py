"""The token mixers of RepMLPNet, RaftMLP, MS-MLP and Strip-MLP against plain spellings of them, and on other grids."""

import pytest
import torch
from conftest import relative_error
from torch.nn import functional as F

import zoo
from zoo.blocks.batch_norm import BatchNorm, over_channels
from zoo.blocks.cross_scale import CrossScale
from zoo.blocks.token.mix_shift import MixShift
from zoo.blocks.token.raft import Raft
from zoo.blocks.token.rep_mlp import RepMlp
from zoo.blocks.token.strip_mlp import StripMap, StripMlp, diagonals


def noisy(module: torch.nn.Module) -> torch.nn.Module:
    """The module with weights and statistics that are nowhere 0 or 1."""
    with torch.no_grad():
        for t in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
            t.add_(torch.rand_like(t), alpha=0.3)
    return module


def gradients(y: torch.Tensor, module: torch.nn.Module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(y.sin().sum(), list(module.parameters())))


# --- RepMLPNet --------------------------------------------------------------------------------------------------------


def plain_rep_mlp(mixer: RepMlp, x: torch.Tensor) -> torch.Tensor:
    """With the channels that share weights in the place of samples, as the paper has it."""
    batch, height, width, dim = x.shape
    image = x.permute(0, 3, 1, 2).reshape(-1, mixer.sets, height, width)
    weight = mixer.fc.weight.view(mixer.sets, height * width, -1)
    y = torch.einsum("soi,nsi->nso", weight, image.flatten(2)).view_as(image)
    y = mixer.norm(y)
    for branch in mixer.branches.values():
        kernel = branch.conv.weight
        y = y + branch.bn(F.conv2d(image, kernel, padding=kernel.shape[-1] // 2, groups=mixer.sets))
    scale = mixer.se.up(mixer.se.down(x.mean((1, 2))).relu()).sigmoid()
    return y.view(batch, dim, height, width).permute(0, 2, 3, 1) * scale[:, None, None]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kernels", [(1, 3), (), (5,)])
def test_rep_mlp(training, kernels):
    mixer = noisy(RepMlp(12, sets=4, kernels=kernels, grid=(4, 6))).double()
    x = torch.randn(3, 4, 6, 12, dtype=torch.double)
    y, expected = mixer.train(training)(x), plain_rep_mlp(mixer, x)
    assert relative_error(y, expected) < 1e-9
    for found, wanted in zip(gradients(y, mixer), gradients(expected, mixer), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-7, atol=1e-9)


def test_rep_mlp_computes_its_branches_where_somebody_looks():
    mixer, x, seen = noisy(RepMlp(8, sets=2, grid=(4, 4))).eval(), torch.randn(2, 4, 4, 8), []
    expected = mixer(x)
    mixer.branches["k3"].conv.register_forward_hook(lambda *args: seen.append(args))
    assert relative_error(mixer(x), expected) < 1e-5 and len(seen) == 1


@pytest.mark.parametrize("grid", [(5, 3), (7,), (1, 1)])
def test_rep_mlp_merged_is_the_same(grid):
    mixer, x = noisy(RepMlp(8, sets=4, grid=grid)).eval(), torch.randn(2, *grid, 8)
    expected = mixer(x)
    mixer.reparameterize()
    tokens = x[0, ..., 0].numel()
    assert relative_error(mixer(x), expected) < 1e-5 and mixer.deployed and mixer.branches is None
    assert sum(p.numel() for p in mixer.fc.parameters()) == 4 * tokens * (tokens + 1)


def test_rep_mlp_of_sets_that_do_not_fit():
    with pytest.raises(ValueError, match="3 sets of weights for a width of 8"):
        RepMlp(8, sets=3, grid=(4, 4))


# --- RaftMLP ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["vertical", "horizontal"])
def test_raft(axis):
    mixer, x = Raft(12, axis=axis, size=3, hidden=10, grid=(4, 5), init="torch"), torch.randn(2, 4, 5, 12)
    length = {"vertical": 4, "horizontal": 5}[axis]
    first, second = mixer.fc1.weight.view(10, 3, length), mixer.fc2.weight.view(3, length, 10)
    rafts = x.unflatten(-1, (3, 4))  # the channels of a raft stand 4 apart
    line = "bhwrc,krh->bwkc" if axis == "vertical" else "bhwrc,krw->bhkc"
    hidden = F.gelu(torch.einsum(line, rafts, first) + mixer.fc1.bias[:, None])
    back = "bwkc,rhk->bhwrc" if axis == "vertical" else "bhkc,rwk->bhwrc"
    bias = mixer.fc2.bias.view(3, length).t()
    y = torch.einsum(back, hidden, second) + (bias[:, None, :, None] if axis == "vertical" else bias[:, :, None])
    assert torch.allclose(mixer(x), y.flatten(-2), atol=1e-5)


@pytest.mark.parametrize("kernels", [(2, 4), (4, 8), (1, 3, 5), (2,)])
def test_windows_of_several_sizes_are_cut_out_and_multiplied(kernels):
    layer, x = CrossScale(3, 8, kernels=kernels), torch.randn(2, 3, 16, 24)
    stride = min(kernels)
    cut = [F.unfold(x, side, padding=(side - stride) // 2, stride=stride) for side in kernels]
    expected = layer.weight @ torch.cat(cut, dim=1) + layer.bias[:, None]
    y = layer.convolve(x)
    assert y.shape[2:] == layer.grid((16, 24)) and torch.allclose(y.flatten(2), expected, atol=1e-5)


def test_windows_without_a_common_centre():
    with pytest.raises(ValueError, match="5 and 2 must differ by an even number"):
        CrossScale(3, 8, kernels=(2, 5))


# --- MS-MLP -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 6, 7, 12), (2, 9, 7), (1, 1, 2, 3)])
def test_mix_shift(shape):
    mixer, x = MixShift(shape[-1], init="torch"), torch.randn(shape)
    image = x if x.ndim == 4 else x[:, None]
    start, parts = 0, []
    for i, width in enumerate(mixer.widths):
        group, shift = image[..., start : start + width].permute(0, 3, 1, 2), i - 2
        start += width
        moved = torch.roll(group, shift, 3), torch.roll(group, shift, 2)
        parts.append(mixer.across[i](moved[0]) + mixer.down[i](moved[1]))
    assert start == shape[-1]
    assert torch.allclose(mixer(x), torch.cat(parts, 1).permute(0, 2, 3, 1).reshape(shape), atol=1e-5)


# --- Strip-MLP --------------------------------------------------------------------------------------------------------


def test_a_strip_map_sees_a_row_and_those_beside_it():
    layer, x = StripMap(3, 5, init="torch"), torch.randn(2, 4, 5, 6)
    weight, bias = layer.weight.view(3, 5, 5, 3), layer.bias.view(3, 5)
    padded = F.pad(x, (0, 0, 0, 0, 1, 1)).unflatten(-1, (2, 3))  # channel c is of group c modulo 3
    rows = torch.stack([padded[:, t : t + 4] for t in range(3)])
    expected = torch.einsum("tbrisg,goit->brosg", rows, weight) + bias.t()[:, None]
    assert torch.allclose(layer(x), expected.flatten(-2), atol=1e-5)


@pytest.mark.parametrize("new", [8, 3])
def test_a_strip_map_of_other_strips(new):
    """The sums over inputs are kept, and what is the same for all outputs stays it."""
    layer = StripMap(2, 5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(2, *[1] * parameter[:5].ndim).expand(2, 5, *parameter.shape[1:]).flatten(0, 1))
    before = layer(torch.ones(1, 3, 5, 4))[:, :, :1]
    layer.resample_(5, new)
    assert torch.allclose(layer(torch.ones(1, 3, new, 4)), before, atol=1e-5)


def test_strip_mlp_moves_to_another_grid():
    mixer = StripMlp(8, grid=(5, 5))
    mixer.set_grid((8, 6))
    assert mixer(torch.randn(2, 8, 6, 8)).shape == (2, 8, 6, 8)
    twin = StripMlp(8, grid=(8, 6))
    assert {k: v.shape for k, v in mixer.state_dict().items()} == {k: v.shape for k, v in twin.state_dict().items()}


def test_positions_are_told_apart_by_their_diagonal():
    table, x = torch.randn(2 * 5 + 1, 4), torch.empty(1, 5, 3, 4)
    expected = torch.stack([torch.stack([table[j - i + 5] for j in range(3)]) for i in range(5)])
    assert torch.equal(diagonals(table, x), expected)


@pytest.mark.parametrize(("dim", "options"), [(9, {}), (12, {"share": 4})])
def test_widths_that_cannot_be_cut(dim, options):
    with pytest.raises(ValueError, match=f"strip_mlp cuts its width into halves.*{dim} cannot be cut so"):
        StripMlp(dim, grid=(4, 4), **options)


# --- All of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", ["rep_mlp(sets=2)", "raft", "raft(axis='horizontal')"])
@pytest.mark.parametrize("new", [(8, 6), (3, 4)])
def test_on_another_grid_a_constant_image_stays_what_it_was(slot, new):
    """In its middle, with weights that are the same for all positions: beyond the edges are zeros."""
    mixer = noisy(zoo.create_block("token_mixer", slot, dim=8, grid=(5, 5))).eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.fill_(0.1)
    middle = lambda y: y[0, y.shape[1] // 2, y.shape[2] // 2]
    before = middle(mixer(torch.ones(1, 5, 5, 8)))
    mixer.set_grid(new)
    after = mixer(torch.ones(1, *new, 8))
    assert after.shape == (1, *new, 8) and torch.allclose(middle(after), before, rtol=1e-4)
    twin = zoo.create_block("token_mixer", slot, dim=8, grid=new)
    assert {k: v.shape for k, v in mixer.state_dict().items()} == {k: v.shape for k, v in twin.state_dict().items()}


@pytest.mark.parametrize(
    ("slot", "macs"),
    [
        ("rep_mlp(sets=4)", 30 * (30 + 1 + 9) * 16 + 2 * 16 * 4),
        ("raft(hidden=7)", 30 * 2 * 7 * 16),
        ("mix_shift", 30 * 2 * (1 + 1 + 9 + 25) * 4),  # 16 channels are four groups of four
        ("strip_mlp", 30 * (3 * 16 * 16 + 3 * 11 * 8 + 30 * 16) + 16 * 16 // 2),
    ],
)
def test_costs_are_those_of_the_docstrings(slot, macs):
    mixer = zoo.create_block("token_mixer", slot, dim=16, grid=(6, 5))
    assert zoo.count_flops(mixer, inputs=torch.randn(1, 6, 5, 16), batch_size=1).macs == macs


@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 4), (2, 3, 5, 4)])
def test_batch_norm_is_torchs_over_all_but_the_channels(shape):
    norm, x = noisy(BatchNorm(4, act="relu")), torch.randn(shape)
    expected = torch.nn.functional.batch_norm(x.reshape(-1, 4), None, None, norm.bn.weight, norm.bn.bias, training=True)
    assert torch.allclose(norm(x), expected.relu().view(shape), atol=1e-5)
    assert norm.bn.num_batches_tracked == 1 and over_channels(norm.bn, x).shape == shape
