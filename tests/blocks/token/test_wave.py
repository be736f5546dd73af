"""The Haar transform against its definition, and the mixer on it."""

import pytest
import torch

from zoo.blocks.downsample.haar import HaarMerging
from zoo.blocks.downsample.merge import PatchMerging
from zoo.blocks.haar import Haar, haar, inverse_haar
from zoo.blocks.token.wave import Wave


def test_the_bands_are_those_of_the_definition():
    """Rows and columns one after the other by the filters (1, 1) and (1, -1) over the root of 2, as pywt's db1."""
    x, s = torch.randn(2, 6, 4, 3, dtype=torch.float64), 0.5**0.5
    low, high = s * (x[:, :, ::2] + x[:, :, 1::2]), s * (x[:, :, ::2] - x[:, :, 1::2])
    bands = [s * (band[:, ::2] + sign * band[:, 1::2]) for band in (low, high) for sign in (1, -1)]
    torch.testing.assert_close(haar(x), torch.cat(bands, -1))


@pytest.mark.parametrize("size", [(8, 12), (5, 7), (1, 6)])
def test_the_transform_inverts_exactly_and_keeps_lengths(size):
    x = torch.randint(-1000, 1000, (2, *size, 4)).double()
    y = haar(x)
    assert torch.equal(inverse_haar(y, size), x)
    assert y.square().sum() == x.square().sum()
    whole = torch.randn(2, 8, 8, 4)
    torch.testing.assert_close(Haar().inverse(Haar()(whole)), whole)


def test_levels_of_the_transform_invert_one_after_the_other():
    x = torch.randint(-8, 8, (1, 16, 8, 2)).float()
    first = haar(x)
    second = haar(first[..., :2])
    means = inverse_haar(second)
    assert torch.equal(inverse_haar(torch.cat([means, first[..., 2:]], -1)), x)


@pytest.mark.parametrize("shape", [(2, 8, 16, 8), (2, 7, 9, 8), (2, 5, 8), (1, 1, 1, 8)])
def test_any_size_is_mixed_as_part_of_a_larger_one_with_zeros(shape):
    mixer = Wave(8, levels=3).eval()
    x = torch.randn(shape)
    y = mixer(x)
    assert y.shape == shape
    if len(shape) == 4 and shape[1] == 7:
        torch.nn.init.zeros_(mixer.reduction.bias)  # else what lies behind the sides would be it
        padded = torch.nn.functional.pad(x, (0, 0, 0, 7, 0, 1))
        torch.testing.assert_close(mixer(x), mixer(padded)[:, :7, :9])


@pytest.mark.parametrize("levels", [1, 3])
def test_merged_norms_compute_the_same(levels):
    mixer = Wave(12, levels=levels, drop=0.5)
    mixer(torch.randn(4, 8, 8, 12))  # the norms learn statistics
    mixer.eval()
    x, before = torch.randn(2, 8, 8, 12), sum(p.numel() for p in mixer.parameters())
    y = mixer(x)
    mixer.reparameterize()
    mixer.reparameterize()
    torch.testing.assert_close(mixer(x), y)
    assert before - sum(p.numel() for p in mixer.parameters()) == 2 * (12 + 6 * (levels - 1))


def test_merging_by_haar_is_an_orthogonal_change_of_swins_merging():
    """Its reduction can be given such weights that both compute the same: the transform loses nothing."""
    ours, swins = (block(3, 5, norm="none") for block in (HaarMerging, PatchMerging))
    x = torch.randn(2, 4, 6, 3)
    with torch.no_grad():
        squares = torch.eye(12).view(12, 1, 2, 2, 3).transpose(2, 3).flatten(1)  # in the order of the merging's vector
        ours.reduction.weight.copy_(swins.reduction.weight @ haar(squares.view(12, 2, 2, 3)).flatten(1))
    torch.testing.assert_close(ours(x), swins(x))
