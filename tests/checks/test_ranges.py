"""Ranges stand where types stand: every number of a signature has one, and what lies outside is refused by name."""

import copy
import inspect
import json
import math
import pickle
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
import torch
from conftest import assert_fresh
from torch import nn

import zoo
from zoo.blocks.channel.mlp import Mlp
from zoo.build.arguments import check_arguments
from zoo.checks import Interval, check_argument, check_type, checked, hints_of, words_of
from zoo.checks.ranges import Length
from zoo.registry.discovery import families
from zoo.slots import options_of
from zoo.slots.slot import OneSlot, Slots
from zoo.slots.table import KINDS, blocks_of
from zoo.tools.catalogue import page

BLOCKS = [(kind, name) for kind in KINDS for name in blocks_of(kind)]
SKELETONS = {family.model: next(v for v in family.variants if v.endswith("_test")) for family in families().values()}
NEEDED = dict(in_chans=3, in_dim=8, num_experts=4, top_k=2, img_size=(8, 8), num_classes=5, img_shape=(3, 8, 8))
NEEDED |= dict(in_features=8, out_features=4)


def numbers_without_a_range(hint, ranged=False):
    """Whether an annotation has a number somewhere that no interval stands beside."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (int, float):
        return not ranged
    if origin is Annotated:
        has = any(isinstance(rule, Interval) for rule in arguments[1:])
        return numbers_without_a_range(arguments[0], has)
    if origin is Literal:
        return False
    return any(numbers_without_a_range(one) for one in arguments if one is not Ellipsis)


def wrong_values(hint):
    """Values that an annotation has no room for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is bool:
        return ["yes", 1, 0.5, None]
    if hint is str:
        return [3, None, ["a"]]
    if origin is Literal:
        return ["nonsense", 3, None]
    if origin is Annotated and arguments[0] in (int, float):
        (interval,) = (rule for rule in arguments[1:] if isinstance(rule, Interval))
        low = interval.above if interval.least is None else interval.least - 1
        high = interval.below if interval.most is None else interval.most + 1
        return [low, high, -(10**30), 10**30, 10**400, math.nan, math.inf, -math.inf, "3", [3], True, None, 1j]
    if origin is Annotated:
        wrong = wrong_values(arguments[0])
        if any(isinstance(rule, OneSlot) for rule in arguments[1:]):
            wrong += [3, "", "a b", "a(", "a(b)", [], {"ratio": 2}]
        if any(isinstance(rule, Slots) for rule in arguments[1:]):
            wrong += [3, "", "a(", [], [3], {"at": {0: 3}}, {"at": {"x": "mlp"}}]
        return wrong + [[] for rule in arguments[1:] if isinstance(rule, Length) and rule.least > 0]
    if origin in (tuple, Sequence):
        entry = wrong_values(arguments[0])
        fixed = origin is tuple and Ellipsis not in arguments
        others = list(arguments[1:]) if fixed else []
        right = [next(v for v in (1, 2, 0, 0.5, "a") if accepts(one, v)) for one in others]
        lists = [(one, *right) for one in entry]
        return ["ab", 3.5, None, *lists, *([(), (1,) * (len(arguments) + 1)] if fixed else [])]
    if origin in (typing.Union, type(int | None)):
        wrong = [value for one in arguments if one is not type(None) for value in wrong_values(one)]
        return [value for value in wrong if not any(accepts(one, value) for one in arguments)]
    return []


def accepts(hint, value):
    """Whether a plain alternative of a union has room for a value: written apart from what is tested."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and any(isinstance(rule, OneSlot) for rule in arguments[1:]):
        return value is None or (isinstance(value, str) and value.isidentifier())
    if origin is Annotated:
        rules = [rule for rule in arguments[1:] if isinstance(rule, Interval)]
        if arguments[0] not in (int, float):
            return False
        if type(value) not in ((int,) if arguments[0] is int else (int, float)) or value != value:
            return False
        return all(
            (r.least is None or value >= r.least)
            and (r.most is None or value <= r.most)
            and (r.above is None or value > r.above)
            and (r.below is None or value < r.below)
            for r in rules
        )
    if hint in (bool, str, type(None)):
        return type(value) is hint
    return origin is Literal and value in arguments


def names(error, option):
    """An error that says which option is wrong, is short and can be printed."""
    text = str(error.value)
    assert option in text and len(text) < 2000 and text.isprintable(), text
    return True


def given_to(kind, name):
    """What a block needs beside its options."""
    cls = blocks_of(kind)[name]
    takes = inspect.signature(cls).parameters
    return {k: v for k, v in NEEDED.items() if k in takes and takes[k].default is inspect.Parameter.empty} | (
        {"grid": (4, 4)} if "grid" in takes else {}
    )


def width_of(cls):
    """The width of a block, if it has one."""
    return {name: 8 for name in ("dim", "features") if name in inspect.signature(cls).parameters}


@pytest.mark.parametrize("kind, name", BLOCKS)
def test_every_option_of_a_block_has_a_type_and_its_numbers_a_range(kind, name):
    cls = blocks_of(kind)[name]
    takes, hints = inspect.signature(cls).parameters, hints_of(cls)
    if not cls.__module__.startswith("zoo."):
        takes = {option: takes[option] for option in options_of(cls) if takes[option].kind is not inspect._VAR_KEYWORD}
    for option, parameter in takes.items():
        if option in ("device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        assert option in hints, f"{option} has no annotation"
        assert not numbers_without_a_range(hints[option]), f"{option}: {hints[option]} has no Interval"
        if parameter.default is not parameter.empty:
            check_type(option, parameter.default, hints[option])


@pytest.mark.parametrize("model", SKELETONS)
def test_every_argument_of_a_skeleton_has_a_type_and_its_numbers_a_range(model):
    hints = hints_of(model)
    for name, parameter in inspect.signature(model).parameters.items():
        if name not in ("device", "dtype"):
            assert name in hints and not numbers_without_a_range(hints[name]), name
            if parameter.default is not parameter.empty:
                check_type(name, parameter.default, hints[name])


def test_numbers_without_a_range_are_found():
    assert numbers_without_a_range(int) and numbers_without_a_range(float | None)
    assert numbers_without_a_range(tuple[Annotated[int, Interval(1)], float])
    assert numbers_without_a_range(Annotated[Sequence[int], Length(1, 3)])
    assert not numbers_without_a_range(tuple[Annotated[int, Interval(1)], ...] | None)


def test_what_families_say_lies_in_the_ranges():
    for family in families().values():
        for variant in family.variants:
            check_arguments(family.model, family.arguments(variant), variant)


@pytest.mark.parametrize("kind, name", BLOCKS)
def test_a_block_refuses_what_its_options_have_no_room_for(kind, name):
    cls, given = blocks_of(kind)[name], given_to(kind, name)
    for option in options_of(cls):
        hint = hints_of(cls).get(option)
        for value in wrong_values(hint):
            with pytest.raises((ValueError, TypeError)) as error:
                zoo.create_block(kind, {"name": name, option: value}, dim=8, **given)
            assert names(error, option), value
            with pytest.raises((ValueError, TypeError)) as error:
                zoo.create_block(kind, name, dim=8, **{**given, option: value})
            assert names(error, option), value
            if cls.__module__.startswith("zoo."):
                with pytest.raises((ValueError, TypeError)) as error:
                    cls(**{**width_of(cls), **given, option: value})
                assert names(error, option), value


@pytest.mark.parametrize("kind, name", [(kind, name) for kind, name in BLOCKS if kind not in ("act", "dispatch")])
def test_a_block_refuses_what_its_sizes_have_no_room_for(kind, name):
    cls, given = blocks_of(kind)[name], given_to(kind, name)
    for argument in (*width_of(cls), *given):
        for value in wrong_values(hints_of(cls)[argument]):
            with pytest.raises((ValueError, TypeError)) as error:
                cls(**{**width_of(cls), **given, argument: value})
            assert names(error, argument), value


@pytest.mark.parametrize("model", SKELETONS)
def test_a_model_refuses_what_its_arguments_have_no_room_for(model):
    for argument, hint in hints_of(model).items():
        slots = any(isinstance(rule, (OneSlot, Slots)) for rule in typing.get_args(hint)[1:])
        for value in wrong_values(hint):
            if value is None and not slots:
                continue  # not given, as in timm
            with pytest.raises((ValueError, TypeError)) as error:
                zoo.create_model(SKELETONS[model], **{argument: value})
            assert names(error, argument), value


@pytest.mark.parametrize("model", SKELETONS)
def test_a_models_own_config_lies_in_the_ranges(model):
    built = zoo.create_model(SKELETONS[model])
    again = model(**built.config)
    assert list(again.state_dict()) == list(built.state_dict())


def test_other_arguments_are_checked_too():
    for wrong in (
        dict(features_only="x"),
        dict(features_only=True, out_indices="ab"),
        dict(pretrained="yes"),
        dict(device="nonsense"),
        dict(device=1.5),
        dict(dtype="float32"),
        dict(dtype=torch.int32),
    ):
        with pytest.raises((ValueError, TypeError)) as error:
            zoo.create_model("vit_test", **wrong)
        assert names(error, list(wrong)[-1])
    with pytest.raises((ValueError, TypeError), match="device is 'nonsense'"):
        zoo.create_block("norm", "layernorm", dim=8, device="nonsense")
    with pytest.raises(ValueError, match="approximate is 'nonsense'; it must be one of 'none', 'tanh'"):
        zoo.create_model("vit_test", act="gelu(approximate='nonsense')")


def test_sizes_that_no_memory_holds_are_an_error_of_the_model():
    with pytest.raises(ValueError, match="vit_test: a weight does not fit into memory .*smaller sizes"):
        zoo.create_model("vit_test", dim=2**20, in_chans=2**16, patch_size=32)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(depth=0),
        dict(img_size="32"),
        dict(global_pool="nonsense"),
        dict(head="x"),
        dict(layer_scale=10**19),
        dict(act=3),
        dict(norm=3),
        dict(stem=None),
        dict(channel_mixer="mlp(ratio=0)"),
        dict(channel_mixer="mpl"),
    ],
)
def test_errors_of_a_folder_begin_with_its_file(wrong, tmp_path):
    zoo.save_pretrained(zoo.create_model("vit_test"), tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["zoo"]["model_args"] |= wrong
    path.write_text(json.dumps(config))
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))) as error:
        zoo.create_model(f"local-dir:{tmp_path / 'm'}")
    assert str(error.value).startswith(str(path)) and str(error.value).count(str(path)) == 1


def test_a_model_that_misses_an_argument_says_which(tmp_path):
    zoo.save_pretrained(zoo.create_model("vit_test"), tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["zoo"]["model_args"] = {}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json.*needs dim, depth, token_mixer, channel_mixer"):
        zoo.create_model(f"local-dir:{tmp_path / 'm'}")


# --- How the check stands before a constructor ------------------------------------------------------------------------


def test_a_constructor_keeps_its_signature_and_its_modules_all_their_uses():
    takes = inspect.signature(Mlp).parameters
    assert list(takes)[:2] == ["dim", "act"] and takes["ratio"].default == 4.0
    assert Mlp.__init__.__qualname__ == "Mlp.__init__"
    block, x = Mlp(8), torch.randn(2, 8)
    for same in (copy.deepcopy(block), pickle.loads(pickle.dumps(block)), torch.fx.symbolic_trace(block)):
        assert torch.equal(same(x), block(x))


def test_constructors_from_elsewhere_stay_as_they_are():
    assert nn.GELU.__init__.__module__.startswith("torch.") and not hasattr(nn.GELU.__init__, "is_checked")
    assert checked(nn.Linear) is nn.Linear and nn.Linear(3, 2).weight.shape == (2, 3)

    class Own(nn.Linear):
        pass

    assert checked(Own).__init__ is nn.Linear.__init__


def test_a_subclass_is_checked_once_and_by_its_own_annotations():
    calls = []

    class Noted(Interval):
        def check(self, what, value):
            calls.append(what)

    @checked
    class One:
        def __init__(self, a: Annotated[int, Noted()] = 1):
            self.a = a

    @checked
    class Two(One):
        pass

    assert Two(3).a == 3 and calls == ["One: a"]


def test_a_device_and_a_dtype_need_no_annotation():
    check_argument("x: device", "device", "meta", {})
    check_argument("x: dtype", "dtype", torch.bfloat16, {})
    check_argument("x: other", "other", object(), {})
    with pytest.raises(TypeError, match="x: dtype is 3; it must be a torch.dtype of floating-point numbers"):
        check_argument("x: dtype", "dtype", 3, {})


# --- What is said of blocks -------------------------------------------------------------------------------------------


def test_block_info_says_type_range_and_default():
    info = zoo.block_info("channel_mixer", "moe")
    options = {option.name: option for option in info.options}
    assert options["num_experts"].type == "int (from 1 to 65536)" and options["num_experts"].default == 8
    assert options["router"].type == "a slot" and options["group"].type == "int (from 1 to 65536) or None"
    assert "device" not in options and "  drop: float (from 0 to 1); default 0.0" in str(info)
    assert str(zoo.block_info("act", "gelu")).endswith("approximate: one of 'none', 'tanh'; default 'none'")
    with pytest.raises(ValueError, match="did you mean 'pool'"):
        zoo.block_info("token_mixer", "pol")
    with pytest.raises(ValueError, match="kind 'mixer' is not one of"):
        zoo.block_info("mixer", "pool")


def test_the_page_of_blocks_is_up_to_date():
    assert_fresh("docs/blocks.md", page())


def test_words_of_annotations():
    assert words_of(Annotated[Any, OneSlot()]) == "a slot" and words_of(Any) == "anything"
    assert str(Interval(1, 2**24)) == "from 1 to 2**24" and str(Interval(0, 2**32 - 1)) == "from 0 to 2**32 - 1"
