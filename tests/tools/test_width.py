"""The effective width of MLP-Mixer, against matrices that are written out."""

import pytest
import torch

from zoo.blocks.token.permuted import Permuted
from zoo.tools.width import MixingSize, size_at, widest


def test_connections_are_the_entries_of_the_matrices_that_are_not_zero():
    size = MixingSize(tokens=6, dim=4, ratio=1)
    matrices = [Permuted(4, mixer="act_linear(act='none')", over=o, grid=(6,)).matrix() for o in ("tokens", "channels")]
    assert all(matrix.shape == (size.width, size.width) for matrix in matrices)
    filled = [torch.count_nonzero(matrix).item() for matrix in matrices]
    assert sum(filled) / 2 == size.connections == size.density * size.width**2


def test_weights_are_those_of_the_maps_of_a_block():
    size = MixingSize(tokens=6, dim=4, ratio=2)
    mixers = [Permuted(4, mixer="mlp(ratio=2)", over=over, grid=(6,)).mixer for over in ("tokens", "channels")]
    assert size.weights == sum(fc.weight.numel() for mixer in mixers for fc in (mixer.fc1, mixer.fc2))


@pytest.mark.parametrize("connections", [2 * 32**3, 4 * 100**3, 5e6])
def test_the_widest_has_as_many_channels_as_positions(connections):
    best = widest(connections, 2)
    assert abs(best.tokens - best.dim) <= 1
    for tokens in (4, 16, 64, 200):
        other = size_at(connections, tokens, 2)
        assert other.width <= best.width * 1.02
        assert abs(MixingSize(tokens, other.dim, 2).connections / connections - 1) < 1 / other.dim


def test_too_few_connections_are_told():
    with pytest.raises(ValueError, match="100 connections are below the .* of 64 positions"):
        size_at(100, 64)
    with pytest.raises(ValueError, match="tokens"):
        MixingSize(0, 4)
