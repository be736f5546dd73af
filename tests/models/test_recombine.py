"""Any token mixer and any channel mixer in any family: build, step, save, load, count."""

import pytest
import torch
from conftest import TEST_VARIANTS, images, relative_error

import zoo

TOKEN_MIXERS = zoo.list_blocks("token_mixer")
CHANNEL_MIXERS = zoo.list_blocks("channel_mixer")
PER_PAIR = 1  # channel mixers that a token mixer meets in a family; the others are left to the slow tests


def train_a_step(model: torch.nn.Module) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = images(model)
    before = [p.detach().clone() for p in model.parameters()]
    loss = torch.nn.functional.cross_entropy(model(x), torch.tensor([0, 1]))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    model.eval()


def check_round_trip(model: torch.nn.Module, folder) -> None:
    zoo.save_pretrained(model, folder)
    again = zoo.create_model(f"local-dir:{folder}").eval()
    x = images(model)
    assert torch.equal(again(x), model(x))


def check_pair(name: str, token_mixer: str, channel_mixer: str) -> torch.nn.Module:
    """A pair is built and trained in a family."""
    model = zoo.create_model(name, token_mixer=token_mixer, channel_mixer=channel_mixer)
    train_a_step(model)
    return model


def some_channel_mixers(name: str, token_mixer: str) -> list[str]:
    """Every family meets every mixer of both kinds, and every pair of mixers meets in some family."""
    start = PER_PAIR * TOKEN_MIXERS.index(token_mixer) + TEST_VARIANTS.index(name)
    return [CHANNEL_MIXERS[(start + i) % len(CHANNEL_MIXERS)] for i in range(PER_PAIR)]


@pytest.mark.parametrize("token_mixer", TOKEN_MIXERS)
@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_cross_product(name, token_mixer, tmp_path):
    number = TOKEN_MIXERS.index(token_mixer) + TEST_VARIANTS.index(name)
    for channel_mixer in some_channel_mixers(name, token_mixer):
        model = check_pair(name, token_mixer, channel_mixer)
        if number % 6 == 0:
            check_round_trip(model, tmp_path)
        if number % 8 == 1:
            assert zoo.count_flops(model).macs > 0


@pytest.mark.slow
@pytest.mark.parametrize("token_mixer", TOKEN_MIXERS)
@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_whole_cross_product(name, token_mixer, tmp_path):
    for channel_mixer in CHANNEL_MIXERS:
        model = check_pair(name, token_mixer, channel_mixer)
        check_round_trip(model, tmp_path / channel_mixer)
    assert zoo.count_flops(model).macs > 0


def test_the_chosen_part_of_the_cross_product_leaves_nothing_out():
    pairs = set()
    for name in TEST_VARIANTS:
        chosen = {token_mixer: some_channel_mixers(name, token_mixer) for token_mixer in TOKEN_MIXERS}
        assert {mixer for mixers in chosen.values() for mixer in mixers} == set(CHANNEL_MIXERS)
        pairs |= {(token_mixer, mixer) for token_mixer, mixers in chosen.items() for mixer in mixers}
    assert len(pairs) == len(TOKEN_MIXERS) * len(CHANNEL_MIXERS)


LEARNT = [name for name in CHANNEL_MIXERS if name.endswith("_kan")]
MEETINGS = [
    pytest.param(name, mixer, marks=[] if (i + j) % 3 == 0 else [pytest.mark.slow])
    for i, name in enumerate(TEST_VARIANTS)
    for j, mixer in enumerate(LEARNT)
]  # every family meets a third of the functions, and every function a third of the families; the others are slow tests


@pytest.mark.parametrize(("name", "channel_mixer"), MEETINGS)
def test_learnt_functions_train_under_autocast(name, channel_mixer):
    model = zoo.create_model(name, channel_mixer=channel_mixer)
    with torch.autocast("cpu", torch.bfloat16):
        train_a_step(model)


def test_the_image_reaches_a_class_token_through_any_mixer_but_none():
    for token_mixer in set(zoo.list_blocks("token_mixer")) - {"none"}:
        model = zoo.create_model("vit_test", token_mixer=token_mixer, head_init="trunc_normal").eval()
        a, b = images(model, 1), images(model, 1)
        assert relative_error(model(a), model(b)) > 1e-4, token_mixer


def test_a_cycle_and_single_blocks(tmp_path):
    model = zoo.create_model(
        "mixer_test",
        depth=4,
        token_mixer=["pool", "attention(heads=2)"],
        channel_mixer={"name": "mlp", "at": {-1: "glu", 0: "none"}},
        norm=["layernorm", "rmsnorm"],
    )
    kinds = [type(b.token_mixer).__name__ for b in model.blocks]
    assert kinds == ["Pool", "Attention", "Pool", "Attention"]
    assert [type(b.channel_mixer).__name__ for b in model.blocks] == ["NoneType", "Mlp", "Mlp", "Glu"]
    train_a_step(model)
    check_round_trip(model, tmp_path)


def test_options_of_a_slot_travel(tmp_path):
    model = zoo.create_model(
        "vit_test", channel_mixer="mlp(ratio=1.5, act='relu')", token_mixer={"name": "pool", "size": 5}
    )
    zoo.save_pretrained(model, tmp_path)
    again = zoo.create_model(f"local-dir:{tmp_path}")
    assert again.blocks[0].channel_mixer.fc1.out_features == 48 and again.blocks[0].token_mixer.mixer.size == 5


def test_dropouts_reach_the_mixers():
    model = zoo.create_model(
        "vit_test", drop_rate=0.1, pos_drop_rate=0.2, proj_drop_rate=0.3, attn_drop_rate=0.4
    ).train()
    assert model.head_drop.p == 0.1 and model.tokens.drop.p == 0.2
    assert model.blocks[0].token_mixer.drop.p == 0.3 and model.blocks[0].channel_mixer.drop.p == 0.3
    assert model.blocks[0].token_mixer.attn_drop == 0.4
    x = images(model)
    assert not torch.equal(model.forward_features(x), model.forward_features(x))
    assert torch.equal(model.eval()(x), model(x))


def test_drop_path_rules():
    rates = lambda model: [b.drop_path.drop_prob if b.drop_path else 0.0 for b in model.blocks]
    assert rates(zoo.create_model("vit_test", drop_path_rate=0.2)) == pytest.approx([0.0, 0.1, 0.2])
    assert rates(zoo.create_model("mixer_test", drop_path_rate=0.2)) == pytest.approx([0.2, 0.2, 0.2])


def test_a_class_as_a_slot_works_but_says_that_it_cannot_be_saved(tmp_path):
    class Double(torch.nn.Module):
        def __init__(self, dim, *, device=None, dtype=None):
            super().__init__()

        def forward(self, x):
            return 2 * x

    model = zoo.create_model("mixer_test", channel_mixer=Double)
    assert model(images(model)).shape == (2, 10)
    with pytest.raises(ValueError, match="channel_mixer was given as .*Double.*cannot be saved by name"):
        zoo.save_pretrained(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
