"""A layer computes what its tensors say, whoever wrote them: averages, copies, calls with other tensors, old files."""

import copy
import gc
import json
import pickle
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

import zoo
from zoo.blocks.kan.edges import edge_sizes
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.kan.select import Selectable, SelectKANLinear
from zoo.blocks.kernels.reading import reading
from zoo.blocks.token.kan_conv import KANConv2d
from zoo.blocks.token.select_kan_conv import SelectKANConv2d
from zoo.tools.kan.grid import refine, update_grid
from zoo.tools.kan.sparsity import prune

FEW = ("spline(grid_size=2, order=2)", "chebyshev(degree=2)", "wavelet(num=2)")
X = torch.linspace(-2, 2, 60).view(20, 3).sin() * 2


def spread(layer: nn.Module) -> nn.Module:
    """Gates that are no longer equal, and functions that are no longer small."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.normal_() if "logits" in name else parameter.mul_(3)
    return layer


def choose(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.gates.logits.normal_()
    layer.select()


# What is built, and what changes the path that is right for it.
CHANGES = {
    "knots": (lambda: KANLinear(3, 4), lambda m: update_grid(m, X)),
    "pruned": (lambda: KANLinear(3, 4), lambda m: prune(m, X, threshold=0.5)),
    "pruned of a model": (
        lambda: nn.Sequential(KANLinear(3, 5), KANLinear(5, 2)),
        lambda m: prune(m, X, threshold=0.5),
    ),
    "knots of a conv": (
        lambda: KANConv2d(3, 4, 3),
        lambda m: m.basis.set_knots(m.basis.knots * (1 + m.basis.knots.abs())),
    ),
    "choice": (lambda: SelectKANLinear(3, 5, FEW), choose),
    "choice of a conv": (lambda: SelectKANConv2d(3, 5, 3, bases=FEW), choose),
    "pruned, then chosen": (lambda: SelectKANLinear(3, 5, FEW), lambda m: (prune(m, X, threshold=0.5), choose(m))),
}


@pytest.fixture(params=CHANGES)
def change(request):
    build, alter = CHANGES[request.param]
    return lambda: spread(build()), alter


def inputs(model: nn.Module) -> Tensor:
    return X.view(2, 5, 2, 3) if isinstance(model, KANConv2d) else X


def what_its_tensors_say(model: nn.Module, build) -> Tensor:
    """The outputs of a new model that has loaded them, in float64 by the form that is right for all of them."""
    twin = build()
    twin.load_state_dict(model.state_dict())
    expected = twin(inputs(twin))
    plain = vmap(twin.double())(inputs(twin)[None].double())[0]  # values cannot be read there
    assert torch.allclose(expected, plain.float(), atol=1e-4)
    return expected


AVERAGES = {
    "timm, quick": lambda m: ModelEmaV3(m, decay=0.0),
    "timm": lambda m: ModelEmaV3(m, decay=0.5),
    "timm, one by one": lambda m: ModelEmaV3(m, decay=0.3, foreach=False),
    **{
        f"torch, {name}, use_buffers={buffers}": lambda m, buffers=buffers, how=how: AveragedModel(
            m, use_buffers=buffers, **how
        )
        for buffers in (False, True)
        for name, how in {
            "swa": {},
            "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.6)},
            "ema, one by one": {"avg_fn": get_ema_avg_fn(0.3)},
        }.items()
    },
}


@pytest.mark.parametrize("average", AVERAGES)
def test_averages(change, average):
    """Before the change, across it and long after: after each update the average is the function of its tensors."""
    build, alter = change
    model = build()
    kept = AVERAGES[average](model)
    update = kept.update if isinstance(kept, ModelEmaV3) else kept.update_parameters
    for step in range(6):
        update(model)
        if step == 1:
            alter(model)
        x = inputs(model)
        assert torch.allclose(kept.module(x), what_its_tensors_say(kept.module, build), atol=1e-5)


@pytest.mark.parametrize("average", ["timm", "torch, ema, use_buffers=True"])
def test_an_average_chooses_once_most_of_it_is_from_after_the_choice(average):
    model = spread(SelectKANLinear(3, 5, FEW))
    kept = AVERAGES[average](model)
    update = kept.update if isinstance(kept, ModelEmaV3) else kept.update_parameters
    update(model)
    choose(model)
    seen = []
    for _ in range(4):
        update(model)
        seen.append(kept.module.gates.selected)
    assert seen[-1] and seen == sorted(seen)
    assert kept.module.selection().chosen == model.selection().chosen


# --- Written past torch, lent, copied ---------------------------------------------------------------------------------


def by_copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


def by_data(target: Tensor, source: Tensor) -> None:
    target.data.copy_(source)


def in_memory(target: Tensor, source: Tensor) -> None:
    """As collectives write: torch counts no version."""
    target.detach().numpy()[...] = source.detach().numpy()


@pytest.mark.parametrize("write", [by_copy, by_data, in_memory])
def test_tensors_written_in_place(change, write):
    build, alter = change
    model, other = build(), build()
    alter(model)
    other(inputs(other))  # whatever it remembers of its tensors is of before
    before = copy.deepcopy(other.state_dict())
    for state in (model.state_dict(), before):
        with torch.no_grad():
            for target, source in zip(other.state_dict().values(), state.values(), strict=True):
                write(target, source)
        assert torch.allclose(other(inputs(other)), what_its_tensors_say(other, build), atol=1e-5)


def test_tensors_lent(change):
    build, alter = change
    model, other = build(), build()
    before = other(inputs(other))
    alter(model)
    assert torch.equal(functional_call(other, model.state_dict(), (inputs(other),)), model(inputs(model)))
    assert torch.equal(other(inputs(other)), before)
    together = vmap(lambda *state: functional_call(other, state, (inputs(other),)))
    for models in ([other, model], [model, other]):  # at once, one changed and one not
        found = together(*stack_module_state(models))
        assert torch.allclose(found, torch.stack([one(inputs(one)) for one in models]), atol=1e-4)


def test_copies_and_pickles(change):
    build, alter = change
    model = build()
    model(inputs(model))
    alter(model)
    y = model(inputs(model))
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(inputs(model)), y)
    with torch.inference_mode():
        lent = {name: tensor.clone() for name, tensor in model.state_dict().items()}  # these have no version
        assert torch.allclose(functional_call(build(), lent, (inputs(model),)), y, atol=1e-5)


def test_what_was_read_in_inference_mode_serves_training(change):
    build, alter = change
    model = build()
    alter(model)
    with torch.inference_mode():
        y = model(inputs(model))
    x = inputs(model).clone().requires_grad_()
    assert torch.allclose(model(x), y, atol=1e-6)
    (once,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    once.square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("record", ["compiled", "exported", "traced"])
def test_recorded_before_the_change(change, record):
    build, alter = change
    model, x = build(), inputs(build())
    if record == "compiled":
        torch._dynamo.reset()
        program = torch.compile(model, backend="aot_eager", fullgraph=True)
        program(x)
    elif record == "exported":
        program = torch.export.export(model, (x,)).module()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.jit.trace(model, x)
    changed = build()
    alter(changed)
    program.load_state_dict(
        {name.removeprefix("_orig_mod."): t for name, t in changed.state_dict().items()}
        if record != "compiled"
        else {f"_orig_mod.{n}": t for n, t in changed.state_dict().items()}
    )
    assert torch.allclose(program(x), changed(x), atol=1e-4)


@pytest.mark.parametrize(
    "build",
    [
        lambda: KANLinear(3, 4, "wavelet", base="star_relu"),
        lambda: KANLinear(3, 4, "rational"),
        lambda: KANLinear(3, 4, "spline"),
        lambda: KANConv2d(3, 4, 3, basis="wavelet"),
        lambda: SelectKANLinear(3, 5, FEW),
    ],
)
@pytest.mark.parametrize("what", ["outputs", "sizes"])
def test_gradients_are_those_of_the_lent_tensors(build, what):
    """The backward pass comes when the module has its own tensors back."""
    if what == "sizes" and not isinstance(build(), KANLinear):
        pytest.skip("sizes of edges are those of KANLinear")
    model, x = build().double(), inputs(build()).double()
    lent = {name: (t + 0.1 * torch.rand_like(t)) for name, t in model.state_dict().items() if "chosen" not in name}
    lent = {name: t.requires_grad_(name in dict(model.named_parameters())) for name, t in lent.items()}

    class Call(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x) if what == "outputs" else edge_sizes(self.model, x)

    loss = functional_call(Call(), {f"model.{name}": t for name, t in lent.items()}, (x,)).square().sum()
    wanted = [t for t in lent.values() if t.requires_grad]
    found = torch.autograd.grad(loss, wanted)
    own = build().double()
    own.load_state_dict(lent, strict=False)
    result = own(x) if what == "outputs" else edge_sizes(own, x)
    parameters = dict(own.named_parameters())
    expected = torch.autograd.grad(result.square().sum(), [parameters[name] for name in lent if name in parameters])
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other)


def test_sizes_follow_lent_knots():
    """A finer grid's tensors in a layer that was built for a coarser one."""
    layer, fine = KANLinear(3, 4), KANLinear(3, 4)
    refine(fine, 10)
    assert torch.equal(functional_call(layer, fine.state_dict(), (X,)), fine(X))
    assert (layer.basis.grid_size, layer.basis.num, fine.basis.grid_size, fine.basis.num) == (5, 8, 10, 13)


# --- What is remembered -----------------------------------------------------------------------------------------------


def test_a_value_is_read_once_and_forgotten_with_its_tensor():
    read = []

    @reading(otherwise="unknown")
    def total(x: Tensor, factor: int) -> float:
        read.append(factor)
        return x.sum().item() * factor

    x = torch.ones(3)
    assert [total(x, 1), total(x, 1), total(x, 2), total(x, 2)] == [3, 3, 6, 6] and read == [1, 2]
    x.data[0] = 2
    assert [total(x, 1), total(x, 1)] == [4, 4] and read == [1, 2, 1]
    y = x.clone()
    assert total(y, 1) == 4 and len(read) == 4
    assert vmap(lambda row: torch.full((), len(total(row, 1))))(x[None]).item() == len("unknown")
    assert total(x.to("meta"), 1) == "unknown" and total(nn.Parameter(x), 1) == 4
    known = total.__closure__[[type(cell.cell_contents) for cell in total.__closure__].index(dict)].cell_contents
    del x, y
    gc.collect()
    assert not known


# --- The choice and its gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build", [lambda: SelectKANLinear(3, 5, FEW, bias=True), lambda: SelectKANConv2d(3, 5, 3, bases=FEW, bias=True)]
)
def test_every_parameter_has_a_gradient_after_the_choice(build):
    """Plain DDP waits for all; those that no node uses get zeros, though the others' are not numbers."""
    layer = build()
    with torch.no_grad():
        layer.gates.logits[:, 1] = 1  # polynomials, which have no parameters of their own
    layer.select()
    y = layer(inputs(layer))
    (y * float("nan")).sum().backward()
    assert layer.weight.grad.isnan().any()
    for parameter in (layer.gates.logits, *layer.basis.parameters()):
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    layer.requires_grad_(False)
    assert not layer(inputs(layer)).requires_grad


@pytest.mark.parametrize(
    "name, slots",
    [
        ("s_convkan_test", {}),
        ("mixer_test", {"channel_mixer": "select_kan"}),
        ("mixer_test", {"token_mixer": "select_kan_conv"}),
        ("kan_function", {"layer": "select"}),
    ],
)
def test_no_parameter_of_a_model_is_left_without_a_gradient(name, slots):
    model = zoo.create_model(name, **slots).train()
    chosen = [module for module in model.modules() if isinstance(module, Selectable)]
    for module in chosen:
        module.select()
    model(torch.randn(2, *model.input_size)).square().sum().backward()
    assert chosen and not [n for n, p in model.named_parameters() if p.grad is None]


# --- States of before -------------------------------------------------------------------------------------------------


def old(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state as it was saved when masks were of truth values, and choices the index of a space, -1 for none."""
    state = dict(state)
    for name, tensor in state.items():
        if name.endswith("alive"):
            state[name] = tensor.bool()
        elif name.endswith("gates.chosen"):
            state[name] = torch.where(tensor.any(1), tensor.argmax(1), -1)
    return state


def test_old_states(change):
    build, alter = change
    model = build()
    for _ in range(2):
        state = old(model.state_dict())
        x, y = inputs(model), model(inputs(model))
        plain, assigned = build(), build()
        plain.load_state_dict(state)
        assigned.load_state_dict(state, assign=True)
        with torch.device("meta"):
            built = build()
        built.load_state_dict(state, assign=True)
        for again in (plain, assigned, built):
            assert torch.equal(again(x), y)
            assert {n: t.dtype for n, t in again.state_dict().items()} == {
                n: t.dtype for n, t in plain.state_dict().items()
            }
            assert all(t.is_floating_point() for t in again.state_dict().values())
        alter(model)


@pytest.mark.parametrize(
    "name, slots, alter",
    [
        ("kan_function", {}, lambda m: prune(m, torch.randn(50, 2), threshold=0.4)),
        ("kan_function", {"layer": "select"}, lambda m: [choose(x) for x in m.modules() if isinstance(x, Selectable)]),
        ("mixer_test", {"token_mixer": "select_kan_conv"}, lambda m: None),
    ],
)
def test_old_folders(name, slots, alter, tmp_path):
    model = zoo.create_model(name, **slots).eval()
    alter(model)
    zoo.save_pretrained(model, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    save_file(old(load_file(file)), file, metadata=json.loads("{}"))
    again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    x = torch.randn(2, *model.input_size)
    assert torch.equal(again(x), model(x))


def test_the_mask_has_the_precision_of_its_weight():
    layer = KANLinear(3, 4, dtype=torch.bfloat16)
    assert layer.alive.dtype is torch.bfloat16 and layer.double().alive.dtype is torch.float64
    prune(layer, X.double(), threshold=0.5)
    assert layer.alive.unique().tolist() == [0, 1]
