"""Slots from strangers: whatever the text or mapping, it is a slot or an error that names it, soon and within little
memory."""

import random
import threading
import time
import tracemalloc

import pytest

import zoo
from zoo.slots import resolve_slots, resolve_stage_slots
from zoo.slots.slot import DEEPEST, LONGEST, MOST, copied, parse_slot


def nested(depth, slot="mlp"):
    for _ in range(depth):
        slot = {"others": slot, "at": {"0": "glu"}}
    return slot


def itself():
    slot = {"name": "mlp"}
    slot["hidden"] = slot
    return slot


def doubled(levels):
    """A mapping of few objects and 2**levels values."""
    value = ["a"]
    for _ in range(levels):
        value = [value, value]
    return {"name": "mlp", "hidden": value}


TEXTS = {
    "2000 signs": "mlp(ratio=" + "-" * 2000 + "1)",
    "100000 signs": "mlp(ratio=" + "-" * 100_000 + "1)",
    "signs with spaces": "mlp(ratio=" + "- " * 20_000 + "1)",
    "a sum": "mlp(ratio=" + "1+" * 20_000 + "1)",
    "a long sum": "mlp(ratio=" + "1+" * 100_000 + "1)",
    "a complex sum": "mlp(ratio=" + "1j+" * 20_000 + "1)",
    "a difference": "mlp(ratio=" + "1-" * 20_000 + "1)",
    "brackets": "mlp(ratio=" + "[" * 2000 + "]" * 2000 + ")",
    "open brackets": "mlp(" * 10_000,
    "calls of calls": "mlp" + "()" * 10_000,
    "indices of indices": "mlp(ratio=a" + "[0]" * 10_000 + ")",
    "attributes": "mlp(ratio=a" + ".a" * 20_000 + ")",
    "not": "mlp(ratio=" + "not " * 10_000 + "1)",
    "lambdas": "mlp(ratio=" + "lambda:" * 5_000 + "1)",
    "comparisons": "mlp(ratio=" + "1<" * 20_000 + "1)",
    "powers": "mlp(ratio=" + "9**" * 20_000 + "9)",
    "a power": "mlp(ratio=9**9**9)",
    "conditions": "mlp(ratio=" + "1 if 1 else " * 4_000 + "1)",
    "a string of megabytes": "mlp(act='" + "a" * 5_000_000 + "')",
    "a name of megabytes": "m" * 5_000_000,
    "a surrogate": "mlp(act='\ud800')",
    "half a text in UTF-16": "\udcff",
    "a null byte": "mlp(act='\0')",
    "an option twice": "mlp(ratio=3, ratio=4)",
    "a key twice": "mlp(act={'name': 'gelu', 'name': 'relu'})",
    "an unhashable key": "mlp(act={[]: 1})",
    "an unhashable entry": "mlp(act={[1]})",
    "5000 digits": "mlp(ratio=" + "9" * 5000 + ")",
    "unpacked": "mlp(**{'ratio': 3})",
    "positional": "mlp(3)",
    "a format": "mlp(act=f'{1}')",
    "a walrus": "mlp(act=(a:=1))",
    "an escape": "mlp(act='\x1b[31m' b'')",
    "an open string": "mlp(act='",
    "bad indentation": "mlp(\n\t\n  \f)(",
    "nothing": "",
    "spaces": "  \n\t ",
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_text_that_is_no_slot_is_refused_and_named(what):
    with pytest.raises(ValueError, match="channel_mixer") as error:
        parse_slot(TEXTS[what], "channel_mixer")
    text = str(error.value)
    assert len(text) < 2000 and text.isprintable()
    if TEXTS[what].startswith("mlp"):
        assert "mlp" in text


def test_a_text_that_ends_the_stack_of_a_thread_does_not_end_the_process():
    """A thread has less of a stack than the process, and on some systems very little."""
    found = []

    def parse():
        for text in TEXTS.values():
            try:
                parse_slot(text)
            except ValueError:
                found.append(text)

    old = threading.stack_size(2**19)
    try:
        thread = threading.Thread(target=parse)
        thread.start()
    finally:
        threading.stack_size(old)
    thread.join()
    assert len(found) == len(TEXTS)


def test_what_is_right_stays_right():
    for text in (
        "mlp",
        " mlp ",
        "mlp()",
        "mlp(ratio=-2.5, act='a-b-c-d--------e')",
        "mlp(a=[[1, (2,)], {3: {4}}])",
        "None",
    ):
        slot = parse_slot(text)
        assert parse_slot(str(slot)) == slot
    assert parse_slot("a(b=1e-5, c=+1, d=b'x', e=1e999)").options["e"] == float("inf")
    long = "moe(experts=[" + ", ".join(["'mlp(ratio=2)'"] * 1000) + "])"
    assert len(parse_slot(long).options["experts"]) == 1000 and len(long) < LONGEST


@pytest.mark.parametrize(
    "value, kind",
    [
        (3, TypeError),
        (3.5, TypeError),
        (b"mlp", TypeError),
        ({"mlp"}, TypeError),
        (object(), TypeError),
        ({}, ValueError),
        ({"name": 3}, ValueError),
        ({"name": None, "ratio": 3}, ValueError),
        ({"ratio": 10**5000}, ValueError),
        ({"name": "mlp", 3: 4}, ValueError),
        ({"name": "mlp", ("a",): 4}, ValueError),
        ({"name": "mlp", None: 4}, ValueError),
        (itself(), ValueError),
        (doubled(40), ValueError),
        ({"name": "mlp", "hidden": [[]] * (MOST + 1)}, ValueError),
    ],
)
def test_a_value_that_is_no_slot_is_refused_and_named(value, kind):
    with pytest.raises(kind, match="norm") as error:
        parse_slot(value, "norm")
    assert len(str(error.value)) < 2000


def test_nesting_has_a_bound():
    with pytest.raises(ValueError, match=f"channel_mixer is nested deeper than {DEEPEST}"):
        resolve_slots(nested(400), 3, "channel_mixer")
    with pytest.raises(ValueError, match=f"channel_mixer is nested deeper than {DEEPEST}"):
        resolve_stage_slots(nested(400), (1, 2), "channel_mixer")
    with pytest.raises(ValueError, match=f"channel_mixer is nested deeper than {DEEPEST}"):
        zoo.create_model("vit_test", channel_mixer=nested(400))
    assert [slot.name for slot in resolve_slots(nested(DEEPEST - 2), 2)] == ["glu", "mlp"]
    with pytest.raises(ValueError, match="the value is nested deeper"):
        copied(itself())


@pytest.mark.parametrize("value", ["", 3, "a b", "mlp(" + "-" * 2000, {"ratio": 2}])
def test_an_error_says_which_argument_it_came_from(value):
    for argument in ("act", "norm", "final_norm", "stem", "channel_mixer", "token_mixer"):
        with pytest.raises((ValueError, TypeError), match=rf"(^|: ){argument} "):
            zoo.create_model("vit_test", **{argument: value})
    with pytest.raises((ValueError, TypeError), match=r"^channel_mixer\[1\] "):
        zoo.create_model("vit_test", channel_mixer=["mlp", value])
    with pytest.raises((ValueError, TypeError), match=r"^token_mixer\[2\]\[1\] "):
        zoo.create_model("swin_test", token_mixer=["pool", "pool", ["pool", value], "pool"])
    with pytest.raises((ValueError, TypeError), match=r"^channel_mixer: at=\{-1: …\} "):
        zoo.create_model("vit_test", channel_mixer={"at": {-1: value}})
    with pytest.raises((ValueError, TypeError), match="^norm "):
        zoo.create_block("norm", value, dim=8)
    with pytest.raises((ValueError, TypeError), match="channel_mixer mlp: act "):
        zoo.create_block("channel_mixer", {"name": "mlp", "act": value}, dim=8)


def test_a_name_or_an_option_that_is_unknown_says_where_it_was_given():
    with pytest.raises(ValueError, match=r"^final_norm 'layernom' is unknown; did you mean 'layernorm'"):
        zoo.create_model("vit_test", final_norm="layernom")
    with pytest.raises(ValueError, match=r"^channel_mixer\[1\] mlp has no option 'ratoi'"):
        zoo.create_model("vit_test", channel_mixer=["mlp", "mlp(ratoi=2)"])
    with pytest.raises(ValueError, match=r"^shared 'mpl' is unknown"):
        zoo.create_block("channel_mixer", "moe(shared='mpl')", dim=8)
    with pytest.raises(ValueError, match=r"^experts\[1\] mlp: ratio is 0; it must be above 0"):
        zoo.create_block("channel_mixer", "moe(experts=['mlp', 'mlp(ratio=0)'])", dim=8)


def test_places_are_whole_numbers_and_each_is_named_once():
    for key in ("x", 1.0, None, True, "1" * 5000, " 1", (0,)):
        with pytest.raises(ValueError, match="must be a whole number"):
            resolve_slots({"name": "mlp", "at": {key: "glu"}}, 3)
        with pytest.raises(ValueError, match="must be a whole number"):
            resolve_slots({"name": "mlp", "every": {key: "glu"}}, 3)
    for at in ({0: "glu", "0": "mlp"}, {-1: "glu", 2: "mlp"}):
        with pytest.raises(ValueError, match="another entry of at names too"):
            resolve_slots({"name": "mlp", "at": at}, 3)
    for wrong in (3, "at", ["glu"]):
        with pytest.raises(ValueError, match="must be a mapping such as"):
            resolve_slots({"name": "mlp", "at": wrong}, 3)


PIECES = ("mlp", "(", ")", "ratio", "=", ",", "-", "+", "[", "]", "{", "}", ":", "'", '"', "\\", "1", "2.5", "e9", "1j")
PIECES += ("act", " ", "\n", "\0", "\ud800", "\x1b", "*", "**", "lambda", "#", "é", "nan", "inf", "True", "None", "b''")
PIECES += ("f'", ".", "_", "@")


def hostile(random):
    """A text of pieces of slots, many of them often, or a right one with a piece exchanged."""
    if random.random() < 0.5:
        return "".join(
            random.choice(PIECES) * random.choice((1, 1, 1, 2, 3, 1000)) for _ in range(random.randint(1, 12))
        )
    text = list("mlp(ratio=2.5, act='gelu', hidden=[1, {2: 3}])")
    for _ in range(random.randint(1, 4)):
        text[random.randrange(len(text))] = random.choice(PIECES)
    return "".join(text)


def fuzz(count, seed):
    draws = random.Random(seed)
    for _ in range(count):
        text = hostile(draws)
        start = time.perf_counter()
        try:
            slot = parse_slot(text, "channel_mixer")
            zoo.create_block("channel_mixer", slot, dim=8, device="meta")
        except (ValueError, TypeError) as error:
            assert type(error) in (ValueError, TypeError), (text, error)
            assert len(str(error)) < 2000 and str(error).isprintable() and "mixer" in str(error), (text, error)
        assert time.perf_counter() - start < 20, text


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_two_hundred_texts_by_chance():
    fuzz(200, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_five_thousand_texts_by_chance():
    fuzz(5000, 1)


def test_no_text_takes_much_memory():
    tracemalloc.start()
    try:
        for text in TEXTS.values():
            with pytest.raises(ValueError):
                parse_slot(text)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_nothing_is_evaluated():
    for text in ("mlp(ratio=__import__('os'))", "mlp(ratio=(lambda: 1)())", "mlp(ratio=[x for x in (1,)])"):
        with pytest.raises(ValueError, match="with literal values: .* cannot be read there"):
            parse_slot(text)
