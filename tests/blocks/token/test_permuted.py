"""Permuted-Kronecker mixing as algebra: dense matrices, MLP-Mixer's own layers, and what random permutations change."""

import copy
import re

import pytest
import torch
from conftest import randomised, relative_error
from torch.nn import functional as F

import zoo
from zoo.blocks.channel.mlp import Mlp
from zoo.blocks.token.permuted import Permuted
from zoo.blocks.token.token_mlp import TokenMlp

GRID, TOKENS, DIM = (2, 3), 6, 4
LINEAR = "act_linear(act='none')"


def matrix_of(places: torch.Tensor) -> torch.Tensor:
    """The permutation that takes the number at ``places[i]`` to ``i``, as a matrix."""
    return F.one_hot(places, len(places)).float()


@pytest.mark.parametrize("over, width", [("tokens", TOKENS), ("channels", DIM)])
def test_the_matrix_is_a_kronecker_product_between_two_permutations(over, width):
    mixer = Permuted(DIM, mixer=LINEAR, over=over, grid=GRID)
    weight = mixer.mixer.fc.weight
    expected = matrix_of(mixer.back) @ torch.kron(torch.eye(TOKENS * DIM // width), weight) @ matrix_of(mixer.into)
    assert torch.allclose(mixer.matrix(), expected, atol=1e-6)
    x, bias = torch.randn(2, *GRID, DIM), mixer(torch.zeros(1, *GRID, DIM))
    assert torch.allclose(mixer(x), (x.flatten(1) @ expected.t()).view(x.shape) + bias, atol=1e-5)
    assert (mixer.matrix() != 0).sum() == TOKENS * DIM * width  # each number is made of `width` others


def test_with_the_mixers_permutations_it_is_the_kronecker_product_of_each_of_its_maps():
    """``W X`` is W over the positions, the same in every channel; ``X V`` is V over the channels at every position."""
    tokens = Permuted(DIM, mixer=LINEAR, over="tokens", permutation="mixer", grid=GRID)
    assert torch.allclose(tokens.matrix(), torch.kron(tokens.mixer.fc.weight, torch.eye(DIM)), atol=1e-6)
    channels = Permuted(DIM, mixer=LINEAR, over="channels", permutation="mixer", grid=GRID)
    assert torch.allclose(channels.matrix(), torch.kron(torch.eye(TOKENS), channels.mixer.fc.weight), atol=1e-6)
    commutation = matrix_of(torch.arange(TOKENS * DIM).view(TOKENS, DIM).t().flatten())
    again = commutation.t() @ torch.kron(torch.eye(DIM), tokens.mixer.fc.weight) @ commutation
    assert torch.allclose(tokens.matrix(), again, atol=1e-6)


def test_with_the_mixers_permutations_it_is_the_mixers_layers():
    x = torch.randn(2, *GRID, DIM)
    ours, theirs = Permuted(DIM, over="tokens", permutation="mixer", grid=GRID), TokenMlp(DIM, hidden=24, grid=GRID)
    theirs.load_state_dict(ours.mixer.state_dict())
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    ours, theirs = Permuted(DIM, over="channels", permutation="mixer", grid=GRID), Mlp(DIM)
    theirs.load_state_dict(ours.mixer.state_dict())
    assert torch.equal(ours(x), theirs(x))


def test_the_mixers_permutations_given_as_random_ones_are_the_mixer():
    x, places = torch.randn(2, *GRID, DIM), torch.arange(TOKENS * DIM)
    random = Permuted(DIM, grid=GRID)
    random.into.copy_(places.view(TOKENS, DIM).t().flatten())
    random.back.copy_(places.view(DIM, TOKENS).t().flatten())
    plain = Permuted(DIM, permutation="mixer", grid=GRID)
    plain.mixer.load_state_dict(random.mixer.state_dict())
    assert torch.allclose(random(x), plain(x), atol=1e-6)


@pytest.mark.parametrize("permutation, reached", [("mixer", 1), ("random", TOKENS)])
def test_a_position_reaches_the_others_over_channels_only_if_permuted(permutation, reached):
    mixer = Permuted(64, over="channels", permutation=permutation, grid=GRID)
    x = torch.zeros(2, *GRID, 64)
    x[1, 0, 0] = 1
    y = mixer(x)
    assert (y[1] != y[0]).any(-1).sum() == reached


def test_permutations_are_drawn_anew_saved_and_kept(tmp_path):
    model = zoo.create_model("pk_mixer_test").eval()
    mixers = [block.token_mixer for block in model.blocks]
    drawn = [places for mixer in mixers for places in (mixer.into, mixer.back)]
    assert all(torch.equal(places.sort().values, torch.arange(16 * 32)) for places in drawn)
    assert len({tuple(places.tolist()) for places in drawn}) == len(drawn)
    zoo.save_pretrained(model, tmp_path)
    again, x = zoo.create_model(f"local-dir:{tmp_path}").eval(), torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x)) and torch.equal(copy.deepcopy(model)(x), model(x))
    assert torch.equal(again.blocks[1].token_mixer.back, mixers[1].back)
    assert not torch.equal(zoo.create_model("pk_mixer_test").blocks[1].token_mixer.back, mixers[1].back)


def test_it_has_the_weights_and_the_macs_of_mlp_mixer():
    for size in ("s16_224", "b16_224"):
        ours, theirs = (zoo.count_flops(zoo.create_model(f"{a}_{size}", device="meta")) for a in ("pk_mixer", "mixer"))
        assert (ours.params, ours.macs) == (theirs.params, theirs.macs)


def test_only_pieces_of_channels_in_their_order_move_to_another_grid():
    mixer = Permuted(DIM, over="channels", permutation="mixer", grid=GRID)
    mixer.set_grid((4, 4))
    assert mixer(torch.randn(1, 4, 4, DIM)).shape == (1, 4, 4, DIM) and mixer.matrix().shape == (64, 64)
    with pytest.raises(ValueError, match="a permutation of 6 positions and cannot be moved to the grid"):
        Permuted(DIM, over="channels", grid=GRID).set_grid((4, 4))
    with pytest.raises(ValueError, match="pieces of 6 positions"):
        Permuted(DIM, permutation="mixer", grid=GRID).set_grid((4, 4))
    with pytest.raises(ValueError, match="name a channel mixer"):
        Permuted(DIM, mixer="none", grid=GRID)


def test_a_mixture_within_reports():
    y, aux = Permuted(DIM, mixer="moe(num_experts=2, top_k=1)", grid=GRID)(torch.randn(2, *GRID, DIM))
    assert y.shape == (2, *GRID, DIM) and "loss/balance" in aux


def test_a_whole_model_with_the_mixers_permutations_is_mlp_mixer():
    slots = [
        {"name": "permuted", "over": over, "permutation": "mixer", "mixer": mixer}
        for over, mixer in {"tokens": "mlp(hidden=16)", "channels": "mlp"}.items()
    ]
    ours = randomised(zoo.create_model("pk_mixer_test", depth=6, token_mixer=slots))
    theirs = zoo.create_model("mixer_test").eval()
    state = {}
    for key, value in ours.state_dict().items():
        if block := re.match(r"blocks\.(\d+)\.(.*)", key):
            number, second = divmod(int(block[1]), 2)
            names = {"norm1": "norm2", "token_mixer.mixer": "channel_mixer"} if second else {".mixer": ""}
            key = f"blocks.{number}.{block[2]}"
            for old, new in names.items():
                key = key.replace(old, new)
        state[key] = value
    theirs.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32)
    assert relative_error(ours(x), theirs(x)) < 1e-5
