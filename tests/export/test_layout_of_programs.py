"""Exported programs without permutations that undo each other: fewer, and the same outputs."""

import pytest
import torch
from conftest import randomised, relative_error
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.export.layout import without_transpositions

FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def permutations(program) -> int:
    return sum(node.target is torch.ops.aten.permute.default for node in program.graph.nodes)


def lightened(model, x):
    """Permutations before and after, and the difference of the outputs."""
    with torch.no_grad():
        expected = model(x)
        program = torch.export.export(model, (x,))
        before = permutations(program)
        program = without_transpositions(program)
        return before, permutations(program), relative_error(program.module()(x), expected)


def test_poolformer_has_one_permutation_and_its_channels_first():
    """As timm's, whose features have their channels first; of zoo's every pooling and convolution has two."""
    model = randomised(zoo.create_model("poolformer_test")).eval()
    before, after, difference = lightened(model, torch.randn(2, *model.input_size))
    assert (before > 10, after, difference < 1e-5) == (True, 1, True)


@pytest.mark.parametrize("name", ["convnext_test", "caformer_test", "unireplknet_test", "swin_test", "vit_test"])
def test_others_have_no_more_than_before(name):
    model = randomised(zoo.create_model(name)).eval()
    before, after, difference = lightened(model, torch.randn(2, *model.input_size))
    assert after <= before
    assert difference < 1e-5


class Widened(nn.Module):
    """A norm, a map to other channels, and a convolution over these: the beginning of an inverted bottleneck."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.norm, self.fc, self.conv = nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.Conv2d(hidden, 3, 3)

    def forward(self, x):
        return self.conv(self.fc(self.norm(x)).relu().square().permute(FIRST)).mean((2, 3))


@pytest.mark.parametrize(("dim", "hidden", "moved"), [(4, 8, 4), (8, 4, 4), (4, 4, 4)])
def test_a_permutation_stands_where_there_are_fewer_channels(dim, hidden, moved):
    model, x = Widened(dim, hidden).eval(), torch.randn(2, 5, 6, dim)
    program = without_transpositions(torch.export.export(model, (x,)))
    (node,) = (node for node in program.graph.nodes if node.target is torch.ops.aten.permute.default)
    assert node.meta["val"].shape == (2, moved, 5, 6)
    assert relative_error(program.module()(x), model(x)) < 1e-5


class Between(nn.Module):
    """A convolution, what is asked for, and a convolution."""

    def __init__(self, function, dim=4):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, dim, 3), nn.Conv2d(dim, 2, 3)
        self.fc, self.scale = nn.Linear(dim, dim), nn.Parameter(torch.randn(dim))
        self.function = function

    def forward(self, x):
        return self.last(self.function(self, self.first(x).permute(LAST)).permute(FIRST)).mean((2, 3))


KEPT = {
    "elementwise": lambda m, x: F.gelu(x * m.scale + 2),
    "linear": lambda m, x: m.fc(x).relu(),
    "a residual": lambda m, x: torch.addcmul(x, m.fc(x), m.scale),
    "two readers": lambda m, x: x + m.fc(x).sigmoid() * x,
    "a reshape to the same": lambda m, x: m.fc(x).reshape(x.shape),
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training),
}
LEFT = {
    "a norm over channels": lambda m, x: F.layer_norm(x, x.shape[-1:], m.scale),
    "one factor a row": lambda m, x: x * torch.arange(x.shape[2], dtype=x.dtype)[:, None],
    "a softmax": lambda m, x: x.softmax(-1),
    "a turn": lambda m, x: x.transpose(1, 2).contiguous(),
    "rows": lambda m, x: m.fc(x.flatten(1, 2)).unflatten(1, x.shape[1:3]),
}


@pytest.mark.parametrize("name", [*KEPT, *LEFT])
def test_only_what_treats_every_element_alike_is_passed(name):
    model = Between({**KEPT, **LEFT}[name]).eval()
    before, after, difference = lightened(model, torch.randn(2, 3, 8, 8))
    assert (before, after) == ((2, 0) if name in KEPT else (2, 2))
    assert difference < 1e-5


def test_a_factor_as_wide_as_the_channels_by_chance_stays_where_it_is():
    """``(4,)`` beside ``(B, 4, 4, 4)`` is one a channel only if the channels come last."""
    model = Between(lambda m, x: x.permute(FIRST).mul(m.scale).permute(LAST)).eval()
    assert lightened(model, torch.randn(2, 3, 6, 6))[2] < 1e-5


OTHERS = {  # what only looks like what the rules are for
    "in place": lambda m, x: m.fc(x.contiguous().add_(1)),
    "a norm of rows": lambda m, x: F.group_norm(x.reshape(-1, 1, x.shape[2] * x.shape[3]), 1).reshape(x.shape),
    "a norm of the batch": lambda m, x: F.group_norm(x.reshape(1, 1, -1), 1).reshape(x.shape),
    "a map to one number": lambda m, x: F.linear(x, m.scale).unsqueeze(-1).expand(x.shape),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_it_stays_what_it_is(name):
    assert lightened(Between(OTHERS[name]).eval(), torch.randn(2, 3, 8, 8))[2] < 1e-5


def test_sizes_that_are_open_stay_open():
    """Two samples of two channels: to ask whether the sizes are equal would settle the one that is open."""
    model = Between(lambda m, x: x * x.mean(-1, keepdim=True) + m.scale, dim=2).eval()
    batch = torch.export.Dim("batch", min=1)
    program = without_transpositions(
        torch.export.export(model, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    )
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(program.module()(x), model(x))
    (entry,) = [node for node in program.graph.nodes if node.name == "x"]
    assert not isinstance(entry.meta["val"].shape[0], int)


def test_a_program_that_ends_in_a_permutation_keeps_it():
    class Map(nn.Module):
        def forward(self, x):
            return F.avg_pool2d(x, 2).permute(LAST).relu()

    x = torch.randn(2, 3, 8, 8)
    program = without_transpositions(torch.export.export(Map(), (x,)))
    torch.testing.assert_close(program.module()(x), Map()(x))
