"""Networks within a network: a cut has the beginning of each weight, and computes what these compute in their place."""

import pytest
import torch
from conftest import randomised
from torch.func import functional_call

import zoo
from zoo.tools.nested import cut, slices, smaller

CUTS = [
    ("mixer_test", {"dim": 16, "depth": 2}),
    ("vit_test", {"dim": 16, "depth": 2}),
    ("hourglass_test", {"dim": 64, "channel_mixer": "hourglass(hidden=4)"}),
    ("resmlp_test", {"depth": 1}),
    ("gmixer_test", {"dim": 8, "channel_mixer": "glu(ratio=1, gate_last=True, open_gate=True)"}),
    ("kat_test", {"dim": 16}),
]


@pytest.mark.parametrize("name, arguments", CUTS, ids=[name for name, _ in CUTS])
def test_a_cut_equals_the_slice(name, arguments, tmp_path):
    model = randomised(zoo.create_model(name))
    small = cut(model, **arguments)
    x = torch.randn(2, *model.input_size)
    in_place = functional_call(smaller(model, arguments).eval(), slices(model, small), (x,))
    assert torch.equal(small(x), in_place) and not torch.allclose(small(x), model(x))
    zoo.save_pretrained(small, tmp_path)
    assert torch.equal(zoo.create_model(f"local-dir:{tmp_path}").eval()(x), small(x))


def test_what_a_slice_is():
    """The beginning; of queries, keys and values, and of a gated map's halves, the beginning of each."""
    model = randomised(zoo.create_model("vit_test"))  # 32 channels in 4 heads
    small = cut(model, dim=16, depth=1)
    ours, theirs = small.blocks[0], model.blocks[0]
    assert len(small.blocks) == 1 and small.blocks[0].token_mixer.heads == 2
    assert torch.equal(ours.channel_mixer.fc1.weight, theirs.channel_mixer.fc1.weight[:64, :16])
    assert torch.equal(ours.norm1.weight, theirs.norm1.weight[:16])
    assert torch.equal(small.head.weight, model.head.weight[:, :16])
    both = (block.token_mixer.qkv.weight.chunk(3) for block in (ours, theirs))
    assert all(torch.equal(part, whole[:16, :16]) for part, whole in zip(*both, strict=True))
    gated = randomised(zoo.create_model("gmixer_test"))
    narrow = cut(gated, token_mixer="token_mlp(ratio=0.25, gated=True)")
    both = [model.blocks[0].token_mixer.fc1.weight.chunk(2) for model in (narrow, gated)]
    assert len(both[0][0]) < len(both[1][0])
    assert all(torch.equal(part, whole[: len(part)]) for part, whole in zip(*both, strict=True))


def test_a_cut_shares_no_memory_and_slices_do():
    model = zoo.create_model("mixer_test")
    small = cut(model, dim=16)
    before = small.head.bias.clone()
    with torch.no_grad():
        model.head.bias.add_(1)
    assert torch.equal(small.head.bias, before)
    views = slices(model, small)
    views["blocks.0.channel_mixer.fc1.weight"].sum().backward()
    gradient = model.blocks[0].channel_mixer.fc1.weight.grad
    assert gradient[:64, :16].eq(1).all() and not gradient[64:].any() and not gradient[:, 16:].any()


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("mixer_test", {"dim": 64}, "has the shape .* in the larger model: give "),
        ("mixer_test", {"depth": 3}, "leaves the model as large as it is"),
        ("mixer_test", {"dept": 2}, "dept"),
        ("mixer_test", {"channel_mixer": "glu"}, "has the shape|has nothing"),
        ("vit_test", {"dim": 20}, "of 32 channels in 4 heads it must keep whole heads"),
    ],
)
def test_what_cannot_be_cut(name, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        cut(zoo.create_model(name), **arguments)


def test_only_isotropic_models_are_cut():
    with pytest.raises(TypeError, match="isotropic models of zoo.create_model, not of Hierarchical"):
        cut(zoo.create_model("swin_test"), depth=1)
