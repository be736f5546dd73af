"""Slots: reading, resolving, checking, and what a wrong one is told."""

import dataclasses
import functools
import re

import pytest
import torch
from torch import nn

import zoo
from zoo.blocks.channel.mlp import Mlp
from zoo.checks import unknown
from zoo.registry import discovery
from zoo.slots import RANKS, Slot, build_block, dump_slots, parse_slot, resolve_slots, resolve_stage_slots
from zoo.slots.table import KINDS, blocks_of


@pytest.mark.parametrize(
    "value, name, options",
    [
        ("mlp", "mlp", {}),
        (" mlp( ratio = 2.5 ) ", "mlp", {"ratio": 2.5}),
        ("mlp(act='relu', bias=False)", "mlp", {"act": "relu", "bias": False}),
        ({"name": "mlp", "ratio": 2}, "mlp", {"ratio": 2}),
        (None, "none", {}),
        ("None", "none", {}),
    ],
)
def test_parse(value, name, options):
    slot = parse_slot(value)
    assert (slot.name, slot.options) == (name, options)
    assert parse_slot(str(slot)) == slot


@pytest.mark.parametrize(
    "text",
    [
        "mlp(",
        "mlp(4)",
        "mlp(ratio=2)(3)",
        "a.b()",
        "mlp(ratio=__import__('os').getcwd())",
        "mlp(**{'ratio': 2})",
        "1 + 1",
        "",
    ],
)
def test_parse_refuses_what_is_no_literal_call(text):
    with pytest.raises(ValueError, match="not of the form name or name"):
        parse_slot(text)


def test_cycle_and_at():
    assert [str(s) for s in resolve_slots(["a", "b"], 5)] == ["a", "b", "a", "b", "a"]
    mixed = {"name": "mlp", "at": {0: "glu", "-1": {"name": "mlp", "ratio": 2}}}
    assert [str(s) for s in resolve_slots(mixed, 3)] == ["glu", "mlp", "mlp(ratio=2)"]


def test_every_counts_from_one_and_at_has_the_last_word():
    assert [str(s) for s in resolve_slots({"name": "mlp", "every": {2: "moe"}}, 5)] == ["mlp", "moe"] * 2 + ["mlp"]
    both = {"name": "mlp", "ratio": 2, "every": {"3": "moe(num_experts=4)"}, "at": {-1: None}}
    assert [str(s) for s in resolve_slots(both, 6)] == ["mlp(ratio=2)"] * 2 + ["moe(num_experts=4)"] + [
        "mlp(ratio=2)",
        "mlp(ratio=2)",
        "none",
    ]


def test_the_other_blocks_may_be_a_list_or_a_mapping_of_the_same_kind():
    stages = {"others": ["pool", ["window", "shifted_window"]], "every": {2: "attention"}}
    assert [str(s) for s in resolve_stage_slots(stages, [1, 4])] == [
        "pool",
        "attention",
        "shifted_window",
        "attention",
        "shifted_window",
    ]
    nested = {"others": {"name": "mlp", "at": {0: "glu"}}, "at": {1: "moe"}}
    assert [str(s) for s in resolve_slots(nested, 3)] == ["glu", "moe", "mlp"]


@pytest.mark.parametrize(
    "own, expected",
    [
        (None, ["mlp(ratio=4)", "mlp(ratio=4)", "moe"]),
        (["glu", "mlp"], ["glu", "mlp", "moe"]),
        ({"name": "glu", "at": {0: "mlp"}}, ["mlp", "glu", "moe"]),
    ],
    ids=["string", "list", "mapping"],
)
def test_exchanging_blocks_leaves_a_models_own_slots_to_the_others(own, expected, monkeypatch, tmp_path):
    family = zoo.registry.family_of("vit_test")
    if own is not None:
        variants = {"vit_test": {**family.variants["vit_test"], "channel_mixer": own}}
        other = dataclasses.replace(family, variants=variants, published={})
        monkeypatch.setattr(discovery, "families", lambda: {"vit": other})
    model = zoo.create_model("vit_test", channel_mixer={"at": {-1: "moe"}})
    assert [str(slot) for slot in model.config["channel_mixer"]] == expected
    zoo.save_pretrained(model, tmp_path)
    loaded = zoo.create_model(f"local-dir:{tmp_path}")
    assert loaded.config["channel_mixer"] == model.config["channel_mixer"]
    again = zoo.create_model(f"local-dir:{tmp_path}", False, channel_mixer={"every": {3: "glu"}})
    assert [str(slot) for slot in again.config["channel_mixer"]] == [*expected[:2], "glu"]


def test_exchanging_blocks_of_a_model_of_stages_and_of_a_default_of_the_class():
    model = zoo.create_model(
        "poolformer_test", token_mixer={"every": {2: "attention(heads=2)"}}, downsample={"at": {0: "merge"}}
    )
    assert [str(s) for s in model.config["token_mixer"]] == [
        *("pool", "attention(heads=2)", "pool", "attention(heads=2)", "pool")
    ]
    assert [s.name for s in model.config["downsample"]] == ["merge", "conv", "conv"]
    swin = zoo.create_model("swin_test", norm={"at": {0: "groupnorm"}})
    assert [s.name for s in swin.config["norm"]][:2] == ["groupnorm", "layernorm"]


@pytest.mark.parametrize(
    "value, words",
    [
        ([], "0 entries for 3 blocks"),
        (["a"] * 4, "4 entries for 3 blocks"),
        ({"name": "mlp", "at": {3: "glu"}}, "outside the model's 3 blocks"),
        ({"at": {0: "glu"}}, 'add "name", or "others" for a list'),
        ({"every": {2: "glu"}, "at": {0: "glu"}}, 'has "every" and "at" but no slot'),
        ({"name": "mlp", "every": {0: "glu"}}, "not from 1 to the model's 3 blocks"),
        ({"name": "mlp", "every": {4: "glu"}}, "not from 1 to the model's 3 blocks"),
        ({"name": "mlp", "every": {"two": "glu"}}, "has the key 'two', which must be a whole number"),
        ({"name": "mlp", "at": {None: "glu"}}, "has the key None, which must be a whole number"),
        ({"name": "mlp", "every": 2}, r'every=2; it must be a mapping such as \{every: \{2: "moe"\}\}'),
        ({"others": "mlp", "ratio": 2, "at": {0: "glu"}}, '"others" beside ratio'),
    ],
)
def test_resolve_errors(value, words):
    with pytest.raises(ValueError, match=words):
        resolve_slots(value, 3, "channel_mixer")


def test_dump_is_the_inverse_of_resolve():
    for value in ("mlp(ratio=2)", ["mlp", "glu(act='gelu')"], {"name": "mlp", "at": {1: "none"}}):
        slots = resolve_slots(value, 4)
        assert resolve_slots(dump_slots(slots), 4) == slots


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: zoo.create_block("channel_mixer", "mpl", dim=8),
            r"'mpl' is unknown; did you mean 'mlp'\? Known: .*glu",
        ),
        (
            lambda: zoo.create_block("channel_mixer", "mlp(ration=2)", dim=8),
            r"no option 'ration'; did you mean 'ratio'\? Options: act",
        ),
        (lambda: zoo.create_block("channel_mixer", "mlp(dim=2)", dim=8), "no option 'dim'"),
        (lambda: zoo.create_block("channel_mixer", "none(ratio=2)", dim=8), "none has no options"),
        (lambda: zoo.create_block("channel_mixer", "mlp(act='gelo')", dim=8), "did you mean 'gelu'"),
        (
            lambda: zoo.create_block("channel_mixer", "mlp(init='xaver')", dim=8),
            "mlp: init 'xaver' is unknown; did you",
        ),
        (lambda: zoo.create_block("token_mixer", "token_mlp", dim=8), r"give grid=\(height, width\)"),
        (lambda: zoo.create_block("mixer", "mlp", dim=8), "kind 'mixer' is not one of"),
        (
            lambda: zoo.create_block("channel_mixer", "mlp"),
            r"mlp needs dim; give create_block\('channel_mixer', 'mlp', dim=",
        ),
        (lambda: zoo.create_block("channel_mixer", "mlp", dim=8, ration=2), "no option 'ration'; did you mean 'ratio'"),
        (
            lambda: zoo.create_block("stem", "conv", dim=8),
            r"stem conv needs in_chans; give create_block\(.*in_chans=…\)",
        ),
        (lambda: zoo.create_block("stem", "lift", dim=8, in_chans=1), "stem lift needs img_size"),
        (lambda: zoo.create_block("downsample", "merge", dim=8), "downsample merge needs in_dim"),
        (lambda: zoo.create_block("basis", "spline"), "basis spline needs dim"),
        (lambda: zoo.create_block("router", "top_k", dim=8, top_k=2), "router top_k needs num_experts"),
        (lambda: zoo.create_block("experts", "mlp", dim=8), "experts mlp needs num_experts"),
        (
            lambda: zoo.create_block("act", "gelu(approximat='tanh')"),
            "no option 'approximat'; did you mean 'approximate'",
        ),
        (
            lambda: zoo.create_block("act", "gelu", approximat="tanh"),
            "no option 'approximat'; did you mean 'approximate'",
        ),
        (lambda: zoo.create_block("stem", "none", dim=8, in_chans=3), "stem 'none' is unknown"),
        (lambda: zoo.create_block("channel_mixer", "hourglass(ratio=1.5)", dim=8), "must be narrower"),
        (lambda: zoo.create_block("channel_mixer", "mlp(ratio=0.01)", dim=8), "hidden width of 0"),
        (lambda: zoo.create_model("vit_test", head="mlp(ratio=0.001)"), "head mlp of dim 32 has a hidden width of 0"),
        (lambda: zoo.create_block("token_mixer", "attention(heads=3)", dim=8), "cannot have 3 heads"),
        (lambda: zoo.create_block("token_mixer", "pool(size=2)", dim=8), "size is 2; it must be odd"),
        (lambda: zoo.create_block("token_mixer", "spatial_gate(ratio=1)", dim=3, grid=(4,)), "even and at least 2"),
    ],
)
def test_wrong_blocks_say_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("slot", ["mlp(ratio='wide')", "mlp(bias=1)", "mlp(hidden=2.5)"])
def test_wrong_types_are_refused(slot):
    with pytest.raises(TypeError, match="it must be"):
        zoo.create_block("channel_mixer", slot, dim=8)


def test_a_class_or_partial_is_a_slot_that_cannot_be_saved_by_name():
    slot = parse_slot(functools.partial(Mlp, ratio=2))
    assert build_block("channel_mixer", slot, 8).fc1.out_features == 16
    assert isinstance(build_block("channel_mixer", Mlp, 8), Mlp)
    with pytest.raises(ValueError, match="cannot be saved by name"):
        dump_slots([slot], "channel_mixer")


def test_defaults_are_given_only_to_blocks_that_take_them_and_never_win():
    mixer = build_block("channel_mixer", "mlp(act='relu')", 8, defaults={"act": "silu", "heads": 3}, grid=(2, 2))
    assert isinstance(mixer.act, nn.ReLU)
    assert isinstance(build_block("act", Slot("gelu", {"approximate": "tanh"})), nn.GELU)


def test_every_block_is_listed_and_documented():
    for kind in ("token_mixer", "channel_mixer", "norm"):
        for name in zoo.list_blocks(kind):
            cls = zoo.slots.table.blocks_of(kind).get(name)
            if cls is None:  # a mixer called none is no module
                continue
            missing = [
                part for part in ("Shape:", "Example:", "Source:", "Differs:", "Cost:") if part not in cls.__doc__
            ]
            assert not missing, f"{cls.__name__}'s docstring lacks {missing}"


def test_a_block_of_ones_own():
    @zoo.register_block("channel_mixer", "twice")
    class Twice(nn.Module):
        def __init__(self, dim, *, factor: float = 2.0, device=None, dtype=None):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return self.factor * x

    try:
        assert zoo.create_block("channel_mixer", "twice(factor=3)", dim=2)(torch.ones(2)).tolist() == [3.0, 3.0]
        with pytest.raises(ValueError, match="'twice' is taken by"):
            zoo.register_block("channel_mixer", "twice")(type("Other", (nn.Module,), {}))
    finally:
        del zoo.slots.table._BLOCKS["channel_mixer"]["twice"]


def test_a_block_works_alone():
    mixer = zoo.create_block("token_mixer", "token_mlp(ratio=2)", dim=8, grid=(5,), dtype=torch.float64)
    assert mixer(torch.randn(3, 5, 8, dtype=torch.float64)).shape == (3, 5, 8)


EVERY_BLOCK = [(kind, name) for kind in KINDS for name in zoo.list_blocks(kind)]
NEEDS = {
    "token_mixer": dict(dim=8, grid=(4, 4)),
    "channel_mixer": dict(dim=8),
    "norm": dict(dim=8),
    "act": dict(dim=8),
    "stem": dict(dim=8, in_chans=3),
    "downsample": dict(dim=16, in_dim=8),
    "shortcut": dict(dim=16, in_dim=8),
    "embed": dict(dim=8, grid=(4, 4)),
    "head": dict(dim=8, num_classes=5),
    "init": dict(),
    "layer": dict(in_features=8, out_features=3),
    "basis": dict(dim=8),
    "router": dict(dim=8, num_experts=4, top_k=2),
    "dispatch": dict(),
    "experts": dict(dim=8, num_experts=4),
}
INPUTS = {
    "token_mixer": (2, 4, 4, 8),
    "channel_mixer": (2, 5, 8),
    "norm": (2, 5, 8),
    "act": (3, 8),
    "stem": (2, 3, 32, 32),
    "downsample": (2, 4, 4, 8),
    "shortcut": (2, 4, 4, 8),
    "embed": (2, 4, 4, 8),
    "head": (2, 8),
    "layer": (2, 8),
}
MORE = {"lift": dict(img_size=(32, 32)), "image": dict(img_shape=(3, 8, 8))}


def made(kind: str, name: str, **more) -> nn.Module | None:
    """A block with what its kind needs, and what it needs itself."""
    slot = {"name": name, "bases": ["spline", "rbf"]} if name == "select" else name
    needs = NEEDS[kind] | MORE.get(name, {})
    if (kind, name) == ("router", "remap"):
        slot = {"name": name, "scored": 6, "kept": (0, 1, 2, 5)}
    return zoo.create_block(kind, slot, **needs, **more)


@pytest.mark.parametrize("kind, name", EVERY_BLOCK, ids=lambda value: value)
def test_every_block_that_is_listed_can_be_created_and_run(kind, name):
    block = made(kind, name)
    if block is None:
        assert name == "none" and KINDS[kind].optional
        return
    assert isinstance(block, KINDS[kind].makes)
    if kind in INPUTS:
        y = block(torch.randn(INPUTS[kind]))
        y = y[0] if getattr(block, "has_aux", False) else y
        assert y.shape[0] == INPUTS[kind][0] and y.dtype is torch.float32
    if kind == "basis":
        assert block.values(torch.zeros(2, 8)).shape[0] == 2
    if kind == "router":
        assert block(torch.randn(1, 6, 8)).num_experts == 4
    if kind == "init":
        block(weight := torch.full((3, 4), 7.0), bias := torch.full((3,), 7.0))
        assert not (weight == 7).any() and not (bias == 7).any()
    else:
        assert isinstance(made(kind, name, device="meta", dtype=torch.float64), nn.Module)


def test_a_class_is_created_like_a_name():
    assert zoo.create_block("act", nn.GELU, approximate="tanh").approximate == "tanh"
    assert zoo.create_block("channel_mixer", functools.partial(Mlp, ratio=2), dim=8).fc1.out_features == 16
    with pytest.raises(ValueError, match="needs dim"):
        zoo.create_block("channel_mixer", Mlp)


# --- Ranks ------------------------------------------------------------------------------------------------------------

TOKEN_MIXERS = [name for name in zoo.list_blocks("token_mixer") if name != "none"]


@pytest.mark.parametrize("name", TOKEN_MIXERS)
def test_a_grid_of_a_rank_that_a_mixer_does_not_declare_is_refused(name):
    ranks = getattr(blocks_of("token_mixer")[name], "spatial", RANKS)
    for rank in (1, 2, 3):
        grid = (8, 4, 4)[:rank]
        if rank in ranks:
            mixer = zoo.create_block("token_mixer", name, dim=8, grid=grid).eval()
            y = mixer(torch.randn(2, *grid, 8))
            assert (y[0] if getattr(mixer, "has_aux", False) else y).shape == (2, *grid, 8)
        else:
            with pytest.raises(
                ValueError, match=rf"token_mixer {name} works on grids of 1 or 2 dim.*\(8, 4, 4\) has 3"
            ):
                zoo.create_block("token_mixer", name, dim=8, grid=grid)


def test_a_mixer_declares_other_ranks_and_one_that_says_nothing_has_one_and_two():
    class Volume(nn.Module):
        spatial = frozenset({3})

        def __init__(self, dim, *, device=None, dtype=None):
            super().__init__()

    class Plain(nn.Module):
        def __init__(self, dim, *, device=None, dtype=None):
            super().__init__()

    build = lambda cls, grid: build_block("token_mixer", cls, 8, grid=grid)
    assert isinstance(build(Volume, (2, 2, 2)), Volume) and isinstance(build(Plain, (4,)), Plain)
    for cls, grid, words in ((Volume, (2, 2), "Volume works on grids of 3 dim.* has 2"), (Plain, (2, 2, 2), "1 or 2")):
        with pytest.raises(ValueError, match=words):
            build(cls, grid)
        with pytest.raises(ValueError, match=words):
            build(functools.partial(cls), grid)
    with pytest.raises(ValueError, match="Volume works on grids of 3"):
        zoo.create_model("vit_test", token_mixer=Volume)


def test_an_error_with_many_known_names_does_not_list_all_of_them():
    names = [f"name_{i}" for i in range(100)]
    assert unknown("key 'name_1x'", "name_1x", names).endswith(", … (100 in all)")
    assert "name_99" not in unknown("key 'x'", "x", names) and "name_1'" in unknown("key 'name_1x'", "name_1x", names)
    some = unknown("key 'name_1x'", "name_1x", names, count=3, see="names()")
    assert re.search(r"did you mean 'name_\d+', 'name_\d+' or 'name_\d+'\?", some) and some.endswith(
        "? names() lists what there is"
    )
