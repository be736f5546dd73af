"""Options that constructors hand on: signatures, annotations and defaults are those of one that names them all."""

import copy
import functools
import inspect
import pickle
import typing
from typing import Literal

import pytest
import torch

import zoo
from zoo.blocks.moe.routers.base import Router
from zoo.blocks.moe.routers.importance import Importance
from zoo.blocks.moe.routers.top_k import TopK
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks import checked, hints_of
from zoo.checks.ranges import Count, Deviation, Rate, Share, Width
from zoo.slots import options_of


class Written:
    """All options written down."""

    def __init__(self, dim: Width, width: Width = 4, *, drop: Rate = 0.5, noise: Deviation = 1.0, device=None):
        self.received = dict(dim=dim, width=width, drop=drop, noise=noise, device=device)


@checked
class Short(Written):
    @with_options_of(Written, without=["noise"], drop=0.25)
    def __init__(self, *args, heads: Count = 2, **options):
        self.heads = heads
        super().__init__(*args, noise=3.0, **options)


def test_the_signature_is_that_of_all_options():
    parameters = inspect.signature(Short).parameters
    assert list(parameters) == ["dim", "width", "heads", "drop", "device"]
    assert [p.default for p in list(parameters.values())[1:]] == [4, 2, 0.25, None]
    assert [p.kind.name for p in parameters.values()] == ["POSITIONAL_OR_KEYWORD"] * 2 + ["KEYWORD_ONLY"] * 3
    assert hints_of(Short) == {"dim": Width, "width": Width, "heads": Count, "drop": Rate}
    assert options_of(Short) == ["heads", "drop"]


def test_defaults_arrive_and_are_overridden():
    assert Short(8).received == dict(dim=8, width=4, drop=0.25, noise=3.0, device=None)
    assert Short(8, 5, drop=0.1, device="cpu").received == dict(dim=8, width=5, drop=0.1, noise=3.0, device="cpu")
    assert Short(width=6, dim=7, heads=3).received["width"] == 6


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Short(8, noise=1.0), TypeError, "Short: got an unexpected keyword argument 'noise'"),
        (lambda: Short(), TypeError, "Short: missing a required argument: 'dim'"),
        (lambda: Short(1, 2, 3), TypeError, "Short: too many positional arguments"),
        (lambda: Short(8, drop=2.0), ValueError, "Short: drop is 2.0; it must be from 0 to 1"),
        (lambda: Short(8, width=0), ValueError, "Short: width is 0; it must be from 1"),
        (lambda: Short(8, heads="two"), TypeError, "Short: heads is 'two', a str; it must be int"),
    ],
)
def test_wrong_calls_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("wrong", [dict(without=["bias"]), dict(bias=True), dict(width=3)])
def test_names_that_no_source_takes_are_refused(wrong):
    with pytest.raises(ValueError, match=f"names {[*wrong.get('without', wrong)][0]}, which none of its sources takes"):

        @with_options_of(Written, **wrong)
        def __init__(self, *args, **options): ...


def test_options_of_any_name_are_handed_on_where_a_source_takes_them():
    def layer(features, *, bias: bool = True, **options): ...

    class Open:
        @with_options_of(layer)
        def __init__(self, dim, **rest):
            self.rest = rest

    class Closed:
        @with_options_of(layer, without=["options"])
        def __init__(self, dim, **rest):
            self.rest = rest

    assert str(inspect.signature(Open)) == "(dim, *, bias: bool = True, **options)"
    assert str(inspect.signature(Closed)) == "(dim, *, bias: bool = True)"
    assert Open(3, grid_size=5).rest == {"bias": True, "grid_size": 5}
    with pytest.raises(TypeError, match="unexpected keyword argument 'grid_size'"):
        Closed(3, grid_size=5)


def test_several_sources_and_a_decorator_above():
    def first(*, a: int = 1, device=None): ...

    def second(*, a: str = "two", b: float = 2.0, dtype=None): ...

    @with_options_of(first, second)
    def init(self, *, c: bool = False, **options):
        return options

    @functools.wraps(init)
    def above(*args, **kwargs):
        return init(*args, **kwargs)

    assert list(inspect.signature(above).parameters) == ["self", "c", "a", "b", "device", "dtype"]
    assert inspect.signature(above).parameters["a"].default == 1
    assert hints_of(above) == {"c": bool, "a": int, "b": float}


def test_options_are_split_by_who_takes_them():
    options = {"losses": "z", "noise": 1.0, "drop": 0.1, "device": "cpu"}
    assert pop_options_of(TopK, options) == {"losses": "z", "noise": 1.0}
    assert options == {"drop": 0.1, "device": "cpu"}
    assert placement(options) == {"device": "cpu", "dtype": None}


def test_a_router_two_levels_down_has_the_options_of_all():
    assert options_of(Importance) == ["share", "importance", "noise", "losses", "init"]
    hints = hints_of(Importance)
    assert hints["share"] == Share and hints["noise"] == Deviation and hints["num_experts"] == Count
    assert hints["importance"] == Literal["max", "sum"] and hints["init"] == hints_of(Router)["init"]
    assert inspect.signature(Importance).parameters["noise"].default == 1.0
    router = Importance(8, 4, 1, share=0.25)
    assert (router.noise, router.losses, router.softmax) == (1.0, ("importance", "load"), "before")
    with pytest.raises(ValueError, match="router importance has no option 'softmax'"):
        zoo.create_block("router", "importance(softmax='after')", 8, num_experts=4, top_k=1)


@pytest.mark.parametrize("kind, slot", [("router", "task"), ("experts", "glu"), ("channel_mixer", "wavelet_kan")])
def test_such_a_module_is_copied_and_pickled(kind, slot):
    needs = {"router": dict(num_experts=4, top_k=2), "experts": dict(num_experts=4)}.get(kind, {})
    module = zoo.create_block(kind, slot, 8, **needs)
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(again) is type(module)
        for (name, a), (other, b) in zip(module.named_parameters(), again.named_parameters(), strict=True):
            assert name == other and torch.equal(a, b)


def test_a_router_from_outside_writes_its_own_options_down():
    @zoo.register_block("router", "first")
    class First(TopK):
        """Top-k with weights of one."""

        @with_options_of(TopK, losses=())
        def __init__(self, *args, weight: Share = 1.0, **options):
            super().__init__(*args, **options)
            self.weight = weight

    try:
        layer = zoo.create_block("channel_mixer", "moe(num_experts=4, router='first(weight=0.5, noise=1.0)')", 8)
        assert (layer.router.weight, layer.router.noise, layer.router.losses) == (0.5, 1.0, ())
        assert "weight: float (above 0 and at most 1); default 1.0" in str(zoo.block_info("router", "first"))
        with pytest.raises(ValueError, match="weight is 2.0; it must be above 0"):
            zoo.create_block("router", "first(weight=2.0)", 8, num_experts=4, top_k=1)
    finally:
        del zoo.slots.table._BLOCKS["router"]["first"]


def test_options_that_were_not_given_have_their_defaults():
    def layer(inputs, *, init: str = "zeros", scale: float = 1.0, drop: float, device=None): ...

    class Block:
        @with_options_of(layer, scale=2.0)
        def __init__(self, dim, *, device="cpu", **rest):
            self.rest = rest

    assert Block(3, drop=0.5).rest == {"init": "zeros", "scale": 2.0, "drop": 0.5}
    assert Block(3, drop=0.5, init="ones").rest["init"] == "ones"
    with pytest.raises(TypeError, match="Block: missing a required (keyword-only )?argument: 'drop'"):
        Block(3)


def test_a_function_takes_the_options_of_another():
    def layer(inputs: int, outputs: int, *, bias: bool = True, device=None): ...

    @with_options_of(layer)
    def head(*args, scale: float = 1.0, **options) -> tuple:
        return args, scale, options

    signature = "(inputs: int, outputs: int, *, scale: float = 1.0, bias: bool = True, device=None) -> tuple"
    assert str(inspect.signature(head)) == signature
    assert typing.get_type_hints(head)["return"] is tuple
    assert head(1, outputs=2) == ((1,), 1.0, {"outputs": 2, "bias": True, "device": None})
    with pytest.raises(TypeError, match="head: got an unexpected keyword argument 'stride'"):
        head(1, 2, stride=2)
    with pytest.raises(TypeError, match="head: missing a required argument: 'inputs'"):
        head()
