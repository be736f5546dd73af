"""Keywords of a model's call reach the mixers that declare them, and no others, in whatever a model is run."""

import copy
import threading

import pytest
import timm.layers
import torch
from conftest import TEST_VARIANTS, images, randomised
from moe_processes import mesh_of, start, wrap
from torch import nn

import zoo
from zoo.slots.table import _BLOCKS, register
from zoo.training.models.segmenter import Pyramid, Segmenter

ROUTER = {"name": "task", "tasks": 3, "noise": 0.0, "losses": ["importance"]}
MOE = {"name": "moe", "num_experts": 4, "top_k": 1, "router": ROUTER}
PLACES = {
    "m3vit": ("m3vit_test", {}),
    "stages": ("swin_test", {"channel_mixer": {"every": {2: MOE}}}),
    "serial block": ("convnext_test", {"channel_mixer": {"at": {-1: MOE}}}),
    "vectors of tasks": ("vit_test", {"channel_mixer": {**MOE, "router": {**ROUTER, "design": "embedding"}}}),
    "groups": ("mixer_test", {"channel_mixer": {**MOE, "group": 1}}),
    "beside a class token": ("vit_test", {"token_mixer": {"name": "token_moe", "num_experts": 4, "router": ROUTER}}),
    "block within": ("mixer_test", {"token_mixer": {"name": "re_represent", "tokens": 4, "channel_mixer": MOE}}),
    "remapped": (
        "vit_test",
        {"channel_mixer": {**MOE, "router": {"name": "remap", "router": ROUTER, "scored": 5, "kept": (0, 1, 2, 4)}}},
    ),
}


def build(place: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    name, slots = PLACES[place]
    return randomised(zoo.create_model(name, num_classes=5, **slots), std=0.1)


def tasks_of(model: nn.Module) -> int:
    return next(module.tasks for module in model.modules() if hasattr(module, "tasks"))


@pytest.fixture(params=PLACES)
def model(request):
    return build(request.param)


def gradients(model: nn.Module, run=None) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(1)
    logits, aux = (model if run is None else run)(torch.randn(2, *model.input_size), return_aux=True, task=1)
    (logits.square().mean() + sum(v for k, v in aux.items() if k.startswith("loss/"))).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * other.abs().max().item() + 1e-7)


def test_the_task_of_the_call_is_the_one_that_is_worked_on(model):
    x = images(model)
    first, second = model(x), model(x, task=1)
    assert torch.equal(first, model(x, task=0)) and not torch.allclose(first, second, atol=1e-4)
    assert torch.equal(model(x), first)  # nothing is left of the call before
    features, aux = model.forward_features(x, return_aux=True, task=1)
    assert torch.equal(model.forward_head(features), second)
    assert all(torch.equal(a, b) for a, b in zip(aux["stat/load"], model(x, True, task=1)[1]["stat/load"], strict=True))
    assert torch.equal(model.forward_intermediates(x, task=1)[0], features)
    assert torch.equal(copy.deepcopy(model)(x, task=1), second)


def test_feature_maps_and_segmenters_hand_it_on():
    torch.manual_seed(0)
    maps = randomised(zoo.create_model("m3vit_test", features_only=True), std=0.1)
    segmenter = Segmenter("m3vit_test", Pyramid(num_classes=3, width=8)).eval()
    segmenter.backbone.load_state_dict(maps.state_dict())
    x = torch.randn(2, 3, 32, 32)
    expected = maps.model.forward_intermediates(x, intermediates_only=True, task=1)
    assert all(torch.equal(a, b) for a, b in zip(maps(x, task=1), expected, strict=True))
    assert not torch.allclose(maps(x)[-1], expected[-1], atol=1e-4)
    assert torch.equal(segmenter(x, task=1), segmenter.head(expected, (32, 32)))


def test_two_threads_on_one_model_get_their_own_tasks():
    model = build("m3vit")
    x = torch.randn(2, 3, 32, 32)
    expected = [model(x, task=task) for task in range(2)]
    wrong, together = [], threading.Barrier(2)

    @torch.no_grad()
    def work(task: int) -> None:
        together.wait()
        wrong.extend(task for _ in range(50) if not torch.allclose(model(x, task=task), expected[task], atol=1e-6))

    threads = [threading.Thread(target=work, args=(task,)) for task in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and not torch.allclose(*expected, atol=1e-3)


@pytest.mark.parametrize("reentrant", [False, True])
def test_both_kinds_of_activation_checkpointing(model, reentrant):
    model.train()
    expected = gradients(model)
    before = timm.layers.use_reentrant_ckpt()
    timm.layers.set_reentrant_ckpt(reentrant)
    try:
        model.set_grad_checkpointing()
        assert_close(gradients(model), expected)
    finally:
        timm.layers.set_reentrant_ckpt(before)


def test_checkpointing_keeps_the_gradients_of_keywords():
    """A keyword may be a tensor that is learnt; the reentrant kind loses those that are not handed in one by one."""

    @register("channel_mixer", "shifted_by")
    class ShiftedBy(nn.Module):
        keywords = frozenset({"shift"})

        def __init__(self, dim, *, device=None, dtype=None):
            super().__init__()
            self.fc = nn.Linear(dim, dim, device=device, dtype=dtype)

        def forward(self, x, shift=None):
            return self.fc(x) if shift is None else self.fc(x) * shift["by"]

    before = timm.layers.use_reentrant_ckpt()
    try:
        model = randomised(zoo.create_model("vit_test", channel_mixer=["mlp", "shifted_by"])).train()
        shift, x, found = torch.tensor(1.5, requires_grad=True), images(model), []
        for reentrant, enable in ((False, False), (False, True), (True, True)):
            timm.layers.set_reentrant_ckpt(reentrant)
            model.set_grad_checkpointing(enable)
            model(x, shift={"by": shift}).square().sum().backward()
            found.append(shift.grad)
            shift.grad = None
        assert found[0].abs() > 0 and all(torch.allclose(one, found[0], rtol=1e-4) for one in found)
    finally:
        timm.layers.set_reentrant_ckpt(before)
        del _BLOCKS["channel_mixer"]["shifted_by"]


@pytest.mark.parametrize(
    "place",
    ["m3vit", *(pytest.param(place, marks=pytest.mark.slow) for place in ("serial block", "beside a class token"))],
)
def test_compile(place):
    model = build(place).train()
    expected = gradients(model)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_close(gradients(model, compiled), expected)
    x, task = images(model), tasks_of(model) - 1 if place == "serial block" else 0
    assert torch.allclose(compiled(x, return_aux=True, task=task)[0], model(x, task=task), atol=1e-5)


@pytest.mark.parametrize("place", ["m3vit", "serial block", "block within"])
def test_export(place):
    model = build(place)
    x = images(model)
    program = torch.export.export(model, (x,), {"task": 1})
    assert torch.allclose(program.module()(x, task=1), model(x, task=1), atol=1e-5)


def under_ddp_and_fsdp(rank: int, processes: int) -> None:
    for how in ("ddp", "fsdp"):
        model = build("m3vit").train()
        x = torch.randn(2, 3, 32, 32)
        expected = [model(x, task=task) for task in range(2)]
        running = wrap(model, how, mesh_of((processes,)))
        for task in range(2):
            found, aux = running(x, return_aux=True, task=task)
            torch.testing.assert_close(found, expected[task], rtol=0, atol=1e-5)
            (found.square().mean() + aux["loss/importance"]).backward()
    assert not torch.allclose(*expected, atol=1e-3)


def test_ddp_and_fsdp():
    start(under_ddp_and_fsdp, 2)


# --- What is declared ------------------------------------------------------------------------------------------------


def test_a_keyword_reaches_only_those_that_declare_it():
    seen = []

    @register("token_mixer", "masked")
    class Masked(nn.Module):
        keywords = frozenset({"mask"})

        def __init__(self, dim, *, device=None, dtype=None):
            super().__init__()

        def forward(self, x, mask="none given"):
            seen.append(mask)
            return x

    try:
        model = zoo.create_model("m3vit_test", token_mixer={"at": {-1: "masked", 0: "masked"}})
        assert model.keywords == {"mask", "task"}
        x = images(model)
        model(x, mask="given", task=1)
        model(x, task=1)
        assert seen == ["given", "given", "none given", "none given"]
    finally:
        del _BLOCKS["token_mixer"]["masked"]


@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_a_keyword_that_nobody_takes_is_an_error(name):
    model = zoo.create_model(name)
    x = images(model)
    known = {"m3vit_test": "task", "hypermixer_test": "mask"}.get(name, "none")
    for run in (model, model.forward_features, model.forward_intermediates):
        with pytest.raises(TypeError, match=f"no mixer of this .* takes the keyword 'tsk'; they take {known}"):
            run(x, tsk=1)
        if known != "task":
            with pytest.raises(TypeError, match="no mixer of this .* takes the keyword 'task'"):
                run(x, task=0)


def test_a_task_that_is_not_there(model):
    count, x = tasks_of(model), images(model)
    for task in (count, -1, True, "depth", 1.0):
        with pytest.raises(ValueError, match=f"task is .*; the task router of . experts has {count} tasks"):
            model(x, task=task)
