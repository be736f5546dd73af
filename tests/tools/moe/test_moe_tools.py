"""Tools for mixtures of experts: upcycling, removing and adding experts and tasks, the load by layer and class."""

import copy

import pytest
import torch
from conftest import images, randomised, relative_error
from torch import nn

import zoo
from zoo.blocks.moe.layer import MoE
from zoo.blocks.moe.routers.remap import Remap
from zoo.blocks.moe.routers.task import Task
from zoo.tools.moe.record import choices_of

ROUTERS = [
    "top_k",
    "top_k(softmax='before')",
    "cosine(width=8)",
    "sigmoid",
    "relu",
    "expert_choice",
    "importance",
]


def sparse(router: str = "top_k", num_experts: int = 16, top_k: int = 2, **options) -> nn.Module:
    slot = {"name": "moe", "num_experts": num_experts, "top_k": top_k, "router": router, **options}
    return randomised(zoo.create_model("vit_test", global_pool="avg", channel_mixer={"at": {1: slot, 2: slot}}), 0.2)


def mixtures(model: nn.Module) -> list[MoE]:
    return [module for module in model.modules() if isinstance(module, MoE)]


def assert_travels(model: nn.Module, x: torch.Tensor, folder) -> None:
    """A changed model saves, loads and gives the same logits."""
    zoo.save_pretrained(model, folder)
    loaded = zoo.create_model(f"local-dir:{folder}").eval()
    for kind in ("token_mixer", "channel_mixer"):
        assert loaded.config[kind] == model.config[kind]
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)


# --- Upcycling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, mixer",
    [
        ("vit_test", "mlp(ratio=2)"),
        ("vit_test", "mlp(hidden=20, act='relu', bias=False, drop=0.1)"),
        ("vit_test", "mlp(act='star_relu')"),
        ("vit_test", "glu(ratio=2)"),
        ("vit_test", "glu(gate_last=True, open_gate=True)"),
        ("vit_test", "hourglass"),
        ("vit_test", "gr_kan"),
        ("vit_test", ["mlp", "glu", "none"]),
        ("poolformer_test", "mlp"),
        ("swinv2_test", "mlp"),
        ("mixer_test", "mlp"),
        ("sparse_mlp_test", {"others": "mlp", "at": {-1: "none"}}),  # its mixers have blocks within
    ],
)
def test_an_upcycled_model_has_the_same_logits_and_travels(name, mixer, tmp_path):
    model = randomised(zoo.create_model(name, channel_mixer=mixer))
    x = images(model)
    with torch.no_grad():
        before = model(x)
        sparse = zoo.upcycle(model, "moe(num_experts=4, top_k=2)")
        assert relative_error(sparse(x), before) < 1e-5
        assert torch.equal(model(x), before)
    dense = [slot.name for slot in model.config["channel_mixer"]]
    assert "moe" not in dense
    assert [slot.name for slot in sparse.config["channel_mixer"]] == ["none" if d == "none" else "moe" for d in dense]
    assert_travels(sparse, x, tmp_path)


def test_the_experts_of_an_upcycled_model_part_in_training():
    model = zoo.upcycle(zoo.create_model("poolformer_test"), "moe(num_experts=3, top_k=2)", at=[0, -1])
    first, last = mixtures(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        logits, aux = model(images(model), return_aux=True)
        optimizer.zero_grad()
        (logits.square().mean() + aux["loss/balance"]).backward()
        optimizer.step()
    for mixture in (first, last):
        assert mixture.router.gate.weight.grad.abs().max() > 0
        weights = mixture.experts.fc2.weight
        assert not torch.equal(weights[0], weights[1])
    assert len(aux["stat/load"]) == 2


@pytest.mark.parametrize(
    "where, changed",
    [({"every": 2}, [1]), ({"at": -1}, [2]), ({"at": [0]}, [0]), ({"every": 3, "at": (0,)}, [0, 2])],
)
def test_upcycling_chosen_blocks(where, changed):
    model = zoo.upcycle(zoo.create_model("vit_test"), "moe(num_experts=2)", **where)
    assert [slot.name == "moe" for slot in model.config["channel_mixer"]] == [i in changed for i in range(3)]


def test_upcycling_keeps_precision_mode_and_frozen_weights():
    model = zoo.create_model("vit_test", dtype=torch.bfloat16).eval().requires_grad_(False)
    (mixture,) = mixtures(zoo.upcycle(model, "moe(num_experts=2)", at=0))
    assert not mixture.training and mixture.router.gate.weight.dtype == torch.bfloat16
    assert [p.requires_grad for p in mixture.experts.parameters()] == [False] * 4
    assert mixture.router.gate.weight.requires_grad


@pytest.mark.parametrize(
    "kwargs, moe, where, words",
    [
        ({}, "moe(top_k=1)", {}, "do not have the sum 1, so the logits would change; take router="),
        ({}, "moe(dispatch='capacity(factor=2.0)')", {}, "leave dispatch out"),
        ({}, "moe(shared='mlp')", {}, "leave shared out"),
        ({}, "moe(experts='glu')", {}, "leave experts out"),
        ({}, "glu", {}, "makes mixtures of experts, not glu"),
        ({}, "moe", {"at": 3}, "at=3 is outside the model's 3 blocks"),
        ({}, "moe", {"every": 4}, "every=4 is not from 1 to the model's 3 blocks"),
        ({"channel_mixer": ["mlp", "none"]}, "moe", {"at": 1}, r"blocks \[1\] do not have a dense channel mixer"),
        ({"channel_mixer": "moe"}, "moe", {}, "no block of the model has a dense channel mixer"),
        ({"channel_mixer": "grn_mlp"}, "moe", {}, "grn_mlp looks at all positions of a sample"),
        ({"channel_mixer": zoo.blocks.Mlp}, "moe", {}, "which has no name; register it"),
    ],
)
def test_what_upcycling_refuses(kwargs, moe, where, words):
    with pytest.raises(ValueError, match=words):
        zoo.upcycle(zoo.create_model("vit_test", **kwargs), moe, **where)


def test_surgery_takes_models_of_zoo_alone():
    with pytest.raises(TypeError, match="a model of zoo.create_model is needed, not a Linear"):
        zoo.upcycle(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="has no blocks with channel mixers"):
        zoo.upcycle(zoo.create_model("kan_function"))


# --- Removing experts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("router", ROUTERS)
def test_removing_what_no_token_reaches_changes_nothing(router, tmp_path):
    model = sparse(router, 32, 2, group=1)
    if router == "relu":
        for mixture in mixtures(model):
            nn.init.zeros_(mixture.router.gate.weight[::2])
    if router == "expert_choice":  # each expert takes somebody
        with torch.no_grad():
            assert zoo.prune_experts(model, images(model)) == {}
        return
    x = images(model)
    with torch.no_grad():
        before, parameters = model(x), sum(p.numel() for p in model.parameters())
        removed = zoo.prune_experts(model, [x[:1], (x[1:], torch.tensor([3]))])
        assert sorted(removed) == [1, 2]
        assert relative_error(model(x), before) < 1e-6
    for place, mixture in enumerate(mixtures(model), 1):
        assert mixture.num_experts == mixture.experts.num_experts == 32 - len(removed[place])
        assert isinstance(mixture.router, Remap) == (router not in ("top_k", "sigmoid"))
    assert sum(p.numel() for p in model.parameters()) < parameters
    assert model(torch.randn_like(x) * 3).isfinite().all()
    assert_travels(model, x, tmp_path)
    assert zoo.prune_experts(model, x) == {}


def test_removing_in_chosen_blocks_and_from_a_list_of_unlike_experts(tmp_path):
    model = sparse("top_k", 12, 1, experts=["mlp(ratio=1)", "gr_kan", "glu"])
    x = images(model, 1)[:, :, :32, :32]
    with torch.no_grad():
        before = model(x)
        (left,) = ({*range(12)} - {*gone} for gone in zoo.prune_experts(model, x, at=-1).values())
        assert relative_error(model(x), before) < 1e-6
    kinds = ["mlp(ratio=1)", "gr_kan", "glu"]
    assert model.config["channel_mixer"][2].options["experts"] == [kinds[i % 3] for i in sorted(left)]
    assert model.config["channel_mixer"][1].options["num_experts"] == 12
    assert_travels(model, x, tmp_path)


def test_removing_refuses_dropped_choices_and_no_data():
    model = sparse(dispatch="capacity(factor=0.2)")
    with pytest.raises(ValueError, match="block 1 dropped choices of these data"):
        zoo.prune_experts(model, images(model))
    with pytest.raises(ValueError, match="there is no batch of data"):
        zoo.prune_experts(model, [])
    with pytest.raises(ValueError, match="no block of the model has a mixture of experts"):
        zoo.prune_experts(zoo.create_model("vit_test"), images(model))


# --- Adding experts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("router", ROUTERS)
def test_an_added_expert_is_in_use_and_changes_nothing_until_it_is_trained(router, tmp_path):
    model = sparse(router, 4)
    x = images(model, 4)
    with torch.no_grad():
        before = model(x)
        first, second = zoo.add_expert(model, x), zoo.add_expert(model, x, of=4, at=-1)
        assert sorted(first) == [1, 2] and second == {2: 4}
        assert relative_error(model(x), before) < 1e-6
    sizes = [mixture.num_experts for mixture in mixtures(model)]
    assert sizes == [5, 6]
    for load, source in zip(zoo.expert_load(model, x).values(), (first[1], 4), strict=True):
        assert load[0, -1] > 0 and load[0, source] > 0
    assert_travels(model, x, tmp_path)

    experts = mixtures(model)[-1].experts
    model(x).square().mean().backward()
    assert experts.fc1.weight.grad[-1].abs().max() > 0
    assert not torch.equal(experts.fc1.weight.grad[-1], experts.fc1.weight.grad[4])
    with torch.no_grad():
        experts.fc2.bias[-1, 0] += 1
        assert relative_error(model(x), before) > 1e-3


def test_experts_are_added_and_removed_in_turn(tmp_path):
    model = sparse("top_k(softmax='before')", 16, 1)
    x = images(model, 1)
    with torch.no_grad():
        before = model(x)
        zoo.add_expert(model, x)
        zoo.prune_experts(model, x)
        zoo.add_expert(model, x)
        assert relative_error(model(x), before) < 1e-6
    assert_travels(model, x, tmp_path)


def test_a_model_compiles_and_exports_after_surgery():
    model = sparse("top_k(softmax='before')", 16, 1)
    x = images(model, 1)
    zoo.prune_experts(model, x)
    zoo.add_expert(model, x)
    assert all(mixture.router.kept and mixture.router.split for mixture in mixtures(model))
    with torch.no_grad():
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)


def test_an_added_expert_counts_as_inactive_for_a_token():
    model = sparse(num_experts=4)
    report = zoo.count_flops(model)
    zoo.add_expert(model, images(model))
    more = zoo.count_flops(model)
    assert more.params > report.params and more.active_macs == report.active_macs
    experts = sum(p.numel() for p in mixtures(model)[0].experts.parameters())
    assert more.params - more.active_params == 2 * round(experts * 3 / 5)


def test_adding_refuses_what_would_not_be_exact():
    model = sparse(num_experts=8, top_k=1, dispatch="capacity(factor=8.0)")
    with pytest.raises(ValueError, match="make its dispatch dropless"):
        zoo.add_expert(model, images(model))
    model = sparse(num_experts=32, top_k=1)
    x = images(model, 1)
    with pytest.raises(ValueError, match="block 1 has no expert 32; it has 0 to 31"):
        zoo.add_expert(model, x, of=32)
    lonely = int(choices_of(model, x)["blocks.1.channel_mixer"].counts(1)[0].argmin())
    with pytest.raises(ValueError, match=f"expert {lonely} of block 1 got 0 tokens of x; it takes 2"):
        zoo.add_expert(model, x, of=lonely)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"kept": (0, 1)}, "keeps 2 experts and splits 0 off, not 3 in all"),
        ({"kept": (2, 1, 0)}, "must be ascending numbers below scored=3"),
        ({"kept": (0, 1, 3), "scored": 3}, "must be ascending numbers below scored=3"),
        ({"split": (2,)}, "splits expert 2 off 2, which must be one of the 2 before"),
    ],
)
def test_remap_checks_its_numbers(options, words):
    with pytest.raises(ValueError, match=words):
        Remap(4, 3, 1, **options)


# --- Mixtures in other places -----------------------------------------------------------------------------------------

TOKENS = "token_moe(num_experts=16, top_k=1, router={!r}, group=1)"
INNER = "moe(num_experts=16, top_k=1, group=1, experts='mlp(ratio=1)')"
TWICE = {
    "name": "re_represent",
    "token_mixer": {"name": "re_represent", "token_mixer": TOKENS.format("importance"), "channel_mixer": INNER},
    "channel_mixer": "mlp",
}
PLACES = {  # model, arguments, and where its mixtures are
    "sparse_mlp": ("sparse_mlp_test", {}, ["blocks.2.token_mixer.block.{}.moe", "blocks.2.token_mixer.block.{}"]),
    "beside a class token": (
        "vit_test",
        {"token_mixer": {"at": {1: TOKENS.format("top_k")}}},
        ["blocks.1.{}.mixer.moe"],
    ),
    "over a plane": (
        "poolformer_test",
        {"token_mixer": {"at": {0: TOKENS.format("sigmoid")}}},
        ["stages.0.blocks.0.{}.moe"],
    ),
    "in a block in a block": (
        "mixer_test",
        {"token_mixer": {"at": {-1: TWICE}}},
        ["blocks.2.token_mixer.block.token_mixer.block.{}.moe", "blocks.2.token_mixer.block.token_mixer.block.{}"],
    ),
    "in both slots": (
        "vit_test",
        {"token_mixer": {"at": {1: TOKENS.format("cosine(width=4)")}}, "channel_mixer": {"at": {1: INNER}}},
        ["blocks.1.{}.mixer.moe", 1],
    ),
}


def placed(name: str) -> tuple[nn.Module, list]:
    arch, kwargs, keys = PLACES[name]
    kinds = ("token_mixer", "channel_mixer")
    return randomised(zoo.create_model(arch, **kwargs), 0.2), [
        key.format(kind) if isinstance(key, str) else key for key, kind in zip(keys, kinds, strict=False)
    ]


@pytest.mark.parametrize("name", PLACES)
def test_experts_are_removed_wherever_the_mixture_is(name, tmp_path):
    model, keys = placed(name)
    x = images(model, 1)
    with torch.no_grad():
        if name == "sparse_mlp":  # it has few experts, and all are reached
            for mixture in mixtures(model):
                mixture.router.gate.weight[1] = -100 * x.new_ones(())
        before, sizes = model(x), {key: m.num_experts for key, m in zip(keys, mixtures(model), strict=True)}
        parameters = sum(p.numel() for p in model.parameters())
        removed = zoo.prune_experts(model, x)
        assert removed and set(removed) <= set(keys)
        assert relative_error(model(x), before) < 1e-5
    for key, mixture in zip(keys, mixtures(model), strict=True):
        assert mixture.num_experts == mixture.experts.num_experts == sizes[key] - len(removed.get(key, []))
    assert sum(p.numel() for p in model.parameters()) < parameters
    assert model(torch.randn_like(x) * 3).isfinite().all()
    assert_travels(model, x, tmp_path)
    assert zoo.prune_experts(model, x) == {}


@pytest.mark.parametrize("name", PLACES)
def test_experts_are_added_wherever_the_mixture_is(name, tmp_path):
    model, keys = placed(name)
    x = images(model, 2)
    with torch.no_grad():
        before = model(x)
        added = zoo.add_expert(model, x)
        assert list(added) == keys
        assert relative_error(model(x), before) < 1e-5
        zoo.prune_experts(model, x)
        zoo.add_expert(model, x)
        assert relative_error(model(x), before) < 1e-5
    assert all(mixture.router.split for mixture in mixtures(model))
    assert_travels(model, x, tmp_path)


def test_planes_over_positions_move_to_another_grid_as_gates_do(tmp_path):
    model = zoo.create_model("mixer_test", token_mixer={"at": {0: TOKENS.format("top_k")}}).eval()
    zoo.add_expert(model, images(model))
    moe = model.blocks[0].token_mixer.moe
    with torch.no_grad():
        moe.router.planes[0] = moe.router.router.gate.weight[3]
    model.set_input_size(48)
    torch.testing.assert_close(moe.router.planes[0], moe.router.router.gate.weight[3])
    x = images(model)
    assert_travels(model, x, tmp_path)


def test_a_mixture_that_no_slot_describes_is_named():
    class Hides(nn.Module):
        has_aux = True

        def __init__(self, dim, *, device=None, dtype=None):
            super().__init__()
            self.inside = MoE(dim, num_experts=2, top_k=1)

        def forward(self, x):
            return self.inside(x)

    model = zoo.create_model("vit_test", channel_mixer={"others": "mlp", "at": {1: Hides, 2: "moe"}})
    with pytest.raises(ValueError, match="which slot describes the mixture blocks.1.channel_mixer.inside"):
        zoo.prune_experts(model, images(model))
    with pytest.raises(ValueError, match=r"blocks \[1\] do not have a mixture of experts; those that have: \[2\]"):
        zoo.prune_experts(model, images(model), at=1)
    zoo.prune_experts(model, images(model), at=2)


# --- Tasks ------------------------------------------------------------------------------------------------------------


def of_tasks(tasks: int = 3, **options) -> nn.Module:
    """Twelve experts, of which a token takes one; a gate a task in one block, a vector a task in another."""
    slots = [
        {"name": "moe", "num_experts": 12, "top_k": 1, "router": {"name": "task", "tasks": tasks, "design": design}}
        for design in ("multi", "embedding")
    ]
    model = zoo.create_model("m3vit_test", channel_mixer={"others": "mlp", "at": {0: slots[0], 2: slots[1]}}, **options)
    return randomised(model, 0.3)


def outputs(model: nn.Module, x: torch.Tensor, tasks) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(x, task=task) for task in tasks]


def rows(model: nn.Module, x: torch.Tensor, task: int) -> list[list[int]]:
    """The rows that each expert of each mixture works on."""
    seen: list[list[int]] = []
    handles = [
        mixture.experts.register_forward_pre_hook(lambda _, args: seen.append(args[1].ends.diff(prepend=ZERO).tolist()))
        for mixture in mixtures(model)
    ]
    outputs(model, x, [task])
    for handle in handles:
        handle.remove()
    return seen


ZERO = torch.zeros(1, dtype=torch.int32)


def test_a_task_runs_its_own_experts_and_no_others():
    model = of_tasks()
    x = images(model, 1)
    for task in range(3):
        chosen = choices_of(model, x, task)
        counts = [chosen[name].counts(1)[0].int().tolist() for name in chosen]
        assert rows(model, x, task) == counts and all(0 in count for count in counts)
        spoilt = copy.deepcopy(model)
        for mixture, count in zip(mixtures(spoilt), counts, strict=True):
            for i in (i for i, rows in enumerate(count) if not rows):
                mixture.experts.fc1.weight.data[i] = torch.nan
        assert torch.equal(*(outputs(m, x, [task])[0] for m in (model, spoilt)))
    load = zoo.expert_load(model, x, task=2)
    assert [(shares[0] > 0).tolist() for shares in load.values()] == [[c > 0 for c in count] for count in counts]


@pytest.mark.parametrize("task", range(3))
def test_the_model_of_one_task_has_its_experts_alone_and_the_same_logits(task, tmp_path):
    model = of_tasks()
    x = images(model, 1)
    (before,) = outputs(model, x, [task])
    reached = [sum(map(bool, count)) for count in rows(model, x, task)]
    removed = zoo.prune_experts(model, x, task=task)
    with torch.no_grad():
        assert relative_error(model(x), before) < 1e-6
    assert [mixture.num_experts for mixture in mixtures(model)] == reached
    assert [12 - len(numbers) for numbers in removed.values()] == reached
    with pytest.raises(ValueError, match="has 1 tasks"):
        model(x, task=1)
    assert_travels(model, x, tmp_path)


@pytest.mark.parametrize("how", ["the same data", "data of each"])
def test_experts_that_no_task_reaches_are_removed(how, tmp_path):
    model = of_tasks()
    x = images(model, 3)
    parts = [x[:1]] * 3 if how == "the same data" else list(x.split(1))
    before = [outputs(model, part, [task])[0] for task, part in enumerate(parts)]
    counts = [rows(model, part, task) for task, part in enumerate(parts)]
    left = [sum(map(any, zip(*of_block, strict=True))) for of_block in zip(*counts, strict=True)]
    assert min(left) < 12 and all(
        sum(map(bool, count)) < n for task in counts for count, n in zip(task, left, strict=True)
    )
    batches = iter([x[:1]]) if how == "the same data" else dict(enumerate(parts))
    zoo.prune_experts(model, batches)
    assert [mixture.num_experts for mixture in mixtures(model)] == left
    for task, part in enumerate(parts):
        assert relative_error(outputs(model, part, [task])[0], before[task]) < 1e-6
    assert_travels(model, x, tmp_path)


@pytest.mark.parametrize("like", [None, 1])
@pytest.mark.parametrize("pruned", [False, True])
def test_a_task_is_added_without_changing_the_others(like, pruned, tmp_path):
    model = of_tasks()
    x = images(model, 1)
    if pruned:
        zoo.prune_experts(model, x)
        zoo.add_expert(model, x, task=2)
    before = outputs(model, x, range(3))
    assert zoo.add_task(model, like=like) == 3
    *old, new = outputs(model, x, range(4))
    assert all(torch.equal(a, b) for a, b in zip(old, before, strict=True))
    assert torch.equal(new, before[1]) == (like == 1)
    assert_travels(model, x, tmp_path)
    loaded = zoo.create_model(f"local-dir:{tmp_path}").eval()
    assert torch.equal(loaded(x, task=3), new)
    loaded(x, task=3).sum().backward()
    gate = next(m for m in loaded.modules() if isinstance(m, Task) and m.design == "multi").gate.weight.grad
    assert gate[3].abs().max() > 0 and gate[:3].abs().max() == 0


def test_what_is_said_of_tasks_that_are_not_there():
    model = of_tasks()
    x, state = images(model), copy.deepcopy(model.state_dict())
    for call in (
        lambda: zoo.prune_experts(model, x, task=3),
        lambda: zoo.prune_experts(model, x, task=True),
        lambda: zoo.add_task(model, like=-1),
    ):
        with pytest.raises(ValueError, match="the model has 3 tasks, numbered from 0"):
            call()
    with pytest.raises(ValueError, match=r"data for the tasks \[0, 2\]; give data for each of the tasks \[0, 1, 2\]"):
        zoo.prune_experts(model, {0: x, 2: x})
    with pytest.raises(ValueError, match=r"data for the tasks \[0\]; give the data of that task alone"):
        zoo.prune_experts(model, {0: x}, task=0)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    for call in (lambda: zoo.add_task(sparse()), lambda: zoo.prune_experts(sparse(), x, task=0)):
        with pytest.raises(ValueError, match="has no router that knows tasks"):
            call()
    with pytest.raises(TypeError, match="a model of zoo.create_model is needed, not a Linear"):
        zoo.add_task(nn.Linear(2, 2))
    uneven = [f"moe(num_experts=4, router='task(tasks={n})')" for n in (2, 3, 2)]
    with pytest.raises(ValueError, match=r"know different numbers of tasks, \[2, 3\]"):
        zoo.add_task(zoo.create_model("m3vit_test", channel_mixer=uneven))


# --- Load -------------------------------------------------------------------------------------------------------------


def test_load_by_class_is_what_the_routers_chose():
    model = sparse(num_experts=4, group=2)  # routed in groups, of which the last is smaller
    x, labels = images(model, 5), torch.tensor([2, 0, 2, 0, 0])
    load = zoo.expert_load(model, [(x[:3], labels[:3]), (x[3:], labels[3:])])
    assert list(load) == ["blocks.1.channel_mixer", "blocks.2.channel_mixer"]
    for name, shares in load.items():
        assert shares.shape == (3, 4)
        for label in (0, 2):
            chosen = torch.cat([choices_of(model, one[None])[name].experts for one in x[labels == label]])
            expected = torch.bincount(chosen.flatten(), minlength=4) / chosen.numel()
            torch.testing.assert_close(shares[label], expected)
        assert shares[1].tolist() == [0] * 4
    assert not any(module._forward_hooks for module in model.modules())


def test_load_says_what_it_needs():
    model = sparse()
    with pytest.raises(ValueError, match="must be a class for each, or give the inputs alone"):
        zoo.expert_load(model, [(images(model), images(model))])
    with pytest.raises(ValueError, match="has no mixture of experts"):
        zoo.expert_load(zoo.create_model("vit_test"), images(model))


def test_the_picture_has_a_map_a_layer():
    pytest.importorskip("matplotlib", reason="plots need zoo[plot]")
    model = sparse(num_experts=4)
    data = [(images(model, 6), torch.arange(6) % 3)]
    figure = zoo.plot_expert_load(model, data, ["cat", "dog", "owl"])
    *maps, scale = figure.axes
    load = zoo.expert_load(model, data)
    for axes, (name, shares) in zip(maps, load.items(), strict=True):
        assert axes.get_title().startswith(name)
        torch.testing.assert_close(torch.as_tensor(axes.images[0].get_array().data), shares)
        assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "owl"]
        assert axes.get_position().x0 >= 0 and axes.get_position().x1 < scale.get_position().x0
    with pytest.raises(ValueError, match="labels are 2 names; the data have 3 classes"):
        zoo.plot_expert_load(model, data, ["cat", "dog"])
