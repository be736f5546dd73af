"""Window attention against timm's blocks; window MLPs against a plain spelling of what the official code computes."""

import copy

import pytest
import torch
from conftest import randomised, relative_error
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.blocks.base import parameters_without_decay
from zoo.blocks.token import partition, window
from zoo.blocks.token.window import ShiftedWindowAttention, WindowAttention
from zoo.blocks.token.window_mlp import ShiftedWindowMlp, WindowMlp

cosine = pytest.mark.parametrize("cosine", [False, True], ids=["table", "cosine"])
shifted = pytest.mark.parametrize("shifted", [False, True], ids=["straight", "shifted"])
MIXERS = ["window", "shifted_window(cosine=True)", "window_mlp", "shifted_window_mlp"]


class NoNorm(nn.Module):
    """In place of a block's norms: the block reads their weight's device, and gets back what it gave."""

    def __init__(self, dim, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, device=device, dtype=dtype))

    def forward(self, x):
        return x


class Zero(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def twins(grid, *, cosine, shifted, window_size=4, dtype=None, **kwargs):
    """timm's block, of which only the skip and the attention are left, and zoo's mixer with the same random weights."""
    sides = (window_size,) * 2 if isinstance(window_size, int) else window_size
    kwargs.update(window_size=window_size, shift_size=tuple(s // 2 for s in sides) if shifted else 0)
    block = SwinTransformerV2Block if cosine else SwinTransformerBlock
    block = block(12, grid, num_heads=3, norm_layer=NoNorm, dtype=dtype, **kwargs)
    block.mlp = Zero()
    mixer = ShiftedWindowAttention if shifted else WindowAttention
    mixer = mixer(12, heads=3, window_size=window_size, cosine=cosine, grid=grid, dtype=dtype)
    mixer.load_state_dict(randomised(block, 0.2).attn.state_dict())
    return block, mixer.eval()


def images(*grid, batch=3, dtype=None):
    return torch.randn(batch, *grid, 12, dtype=dtype)


# --- Attention --------------------------------------------------------------------------------------------------------


@cosine
@shifted
@pytest.mark.parametrize("grid", [(8, 8), (4, 12), (7, 10), (4, 4), (3, 9)])
@pytest.mark.parametrize("window_size", [4, (2, 5)])
def test_attention_and_its_gradients_are_those_of_timm(grid, window_size, shifted, cosine):
    block, mixer = twins(grid, cosine=cosine, shifted=shifted, window_size=window_size)
    x, weight = images(*grid).requires_grad_(), images(*grid)
    expected = block(x) - x
    with torch.no_grad():
        assert relative_error(mixer(x), expected) < 1e-5
    found = mixer(x)
    assert relative_error(found, expected) < 1e-5
    parameters = dict(mixer.named_parameters())
    ours = torch.autograd.grad((found * weight).sum(), [x, *parameters.values()])
    theirs = [x, *(block.attn.get_parameter(name) for name in parameters)]
    theirs = torch.autograd.grad((expected * weight).sum(), theirs)
    for name, a, b in zip(["x", *parameters], ours, theirs, strict=True):
        assert relative_error(a, b) < 1e-4, name


@cosine
@shifted
def test_any_grid_is_taken_with_the_window_as_built(shifted, cosine):
    block, mixer = twins((8, 8), cosine=cosine, shifted=shifted, dynamic_mask=True)
    with torch.no_grad():
        for grid in [(12, 16), (9, 6), (3, 5), (1, 1), (8, 8)]:
            x = images(*grid)
            assert relative_error(x + mixer(x), block(x)) < 1e-5, grid
    with pytest.raises(ValueError, match="grid"):
        mixer(images(64))


@cosine
@shifted
def test_set_grid_and_set_window_size_are_set_input_size_of_timm(shifted, cosine):
    block, mixer = twins((6, 6), cosine=cosine, shifted=shifted, window_size=7)
    assert mixer.window == (6, 6) and mixer.shift == (0, 0)
    steps = [
        (lambda: mixer.set_grid((9, 14)), (9, 14), (7, 7)),
        (lambda: mixer.set_window_size((3, 5)), (9, 14), (3, 5)),
        (lambda: mixer.set_grid((5, 4)), (5, 4), (3, 5)),
        (lambda: mixer.set_grid((12, 12), 6), (12, 12), (6, 6)),
    ]
    for move, grid, window_size in steps:
        move()
        block.set_input_size(grid, window_size)
        assert (mixer.window, mixer.shift) == (block.window_size, block.shift_size)
        x = images(*grid)
        with torch.no_grad():
            assert relative_error(x + mixer(x), block(x)) < 1e-5, (grid, window_size)


@cosine
@shifted
@pytest.mark.parametrize("grad", [False, True])
def test_bf16_is_as_exact_as_timm(grad, shifted, cosine, monkeypatch):
    monkeypatch.setattr(window, "SCORES", 1000)  # so that the scores come in parts
    block, mixer = twins((11, 8), cosine=cosine, shifted=shifted)
    x = images(11, 8)
    exact = copy.deepcopy(block).double()(x.double()) - x.double()
    block, mixer, x = block.bfloat16(), mixer.bfloat16(), x.bfloat16()
    # What is left of timm's block adds x, which would round its attention once more.
    with torch.set_grad_enabled(grad):
        ours, theirs = mixer(x), block.attn(partition.cut_windows(x[:, :8], (4, 4)))
    assert ours.dtype is torch.bfloat16
