"""Names and texts of 5,000 letters and of terminal escapes, at every public function that takes one."""

import pytest
import torch

import zoo
from zoo.blocks.init import Scheme
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.linear import Linear
from zoo.blocks.scale import LayerScale
from zoo.checks import some, unknown
from zoo.tools.catalogue import block_info

WORDS = {
    "letters": "x" * 5000,
    "escapes": "\x1b]0;x\x07" * 1000,
    "slashes": "/" * 20_000,
    "surrogates": "\ud800" * 5000,
}


def vit(**kwargs):
    return zoo.create_model("vit_test", **kwargs)


DOORS = {
    "create_model": zoo.create_model,
    "tag": lambda word: zoo.create_model(f"vit_test.{word}"),
    "source": lambda word: zoo.create_model(f"{word}:{word}"),
    "local-dir": lambda word: zoo.create_model(f"local-dir:{word}"),
    "hf-hub": lambda word: zoo.create_model(f"hf-hub:{word}"),
    "configuration": lambda word: vit(pretrained_cfg=word),
    "overlay": lambda word: vit(pretrained_cfg_overlay={word: 1}),
    "overlaid file": lambda word: vit(pretrained=True, pretrained_cfg_overlay={"file": word}),
    "checkpoint": lambda word: vit(checkpoint_path=word),
    "checkpoint of features": lambda word: vit(checkpoint_path=word, features_only=True),
    "argument": lambda word: vit(**{word: 1}),
    "slot": lambda word: vit(channel_mixer=word),
    "slot by mapping": lambda word: vit(channel_mixer={"name": word}),
    "option": lambda word: vit(channel_mixer={"name": "mlp", word: 1}),
    "exchange": lambda word: vit(channel_mixer={"at": {word: "mlp"}}),
    "init": lambda word: vit(init=word),
    "global_pool": lambda word: vit(global_pool=word),
    "device": lambda word: vit(device=word),
    "dtype": lambda word: vit(dtype=word),
    "model_info": zoo.model_info,
    "family": lambda word: zoo.list_models(family=word),
    "task": lambda word: zoo.list_models(task=word),
    "list_blocks": zoo.list_blocks,
    "register_block": lambda word: zoo.register_block(word, "x"),
    "create_block's kind": lambda word: zoo.create_block(word, "mlp", dim=8),
    "create_block": lambda word: zoo.create_block("channel_mixer", word, dim=8),
    "create_block's init": lambda word: zoo.create_block("channel_mixer", {"name": "mlp", "init": word}, dim=8),
    "rational": lambda word: zoo.create_block("channel_mixer", {"name": "gr_kan", "rational": word}, dim=8),
    "weights": lambda word: zoo.create_block("channel_mixer", {"name": "gr_kan", "weights": word}, dim=8),
    "needs": lambda word: zoo.create_block("channel_mixer", {"name": "mlp", "act": word}),
    "block_info": lambda word: block_info("norm", word),
    "block_info's kind": lambda word: block_info(word, "x"),
    "basis": lambda word: KANLinear(2, 2, word),
    "Linear's init": lambda word: Linear(2, 2, init=word),
    "pooling": lambda word: vit().reset_classifier(3, word),
    "format": lambda word: vit().forward_intermediates(torch.zeros(1, 3, 32, 32), output_fmt=word),
    "keyword": lambda word: vit()(torch.zeros(1, 3, 32, 32), **{word: 1}),
}


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_an_error_is_short_and_prints(door, word):
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as caught:
        door(word)
    told = str(caught.value)
    assert len(told) < 2000 and told.isprintable()


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
def test_known_names_may_be_long_too(word):
    told = unknown(f"task {word}", word, [word + str(i) for i in range(100)], count=3)
    assert len(told) < 2000 and told.isprintable() and some([word] * 9).endswith("… (9 in all)")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: KANLinear(3, 4, scale=-1.0), "KANLinear: scale is -1.0; it must be from 0"),
        (lambda: LayerScale(4, value=float("nan")), "LayerScale: value is nan; it must be a finite number"),
        (lambda: vit().reset_classifier(2**40), "num_classes is 1099511627776; it must be"),
        (lambda: zoo.create_model("kan_function").reset_classifier(-1), "num_classes is -1; it must be"),
        (lambda: vit(stem_init="xaver"), "vit_test: stem_init 'xaver' is unknown; did you mean 'xavier'"),
        (lambda: zoo.create_block("channel_mixer", "gr_kan(rational='swich')", dim=8), "gr_kan: rational 'swich' is"),
        (lambda: zoo.create_block("token_mixer", "attention(init='mimetik')", dim=8), "did you mean 'mimetic'"),
    ],
)
def test_what_is_out_of_its_range_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_dtype_is_one_of_torch():
    with pytest.raises(TypeError, match="vit_test: dtype is .*; it must be a torch.dtype"):
        vit(dtype=torch.zeros(1))


def test_a_scheme_that_was_added_is_known():
    with pytest.raises(ValueError, match="init 'ones' is unknown"):
        vit(init="ones")

    class Ones(Scheme):
        def fill_weight(self, weight):
            weight.fill_(1)

    zoo.register_block("init", "ones")(Ones)
    assert (vit(init="ones").blocks[0].channel_mixer.fc1.weight == 1).all()
