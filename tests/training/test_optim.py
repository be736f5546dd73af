"""Every optimizer that a recipe can name trains and resumes, or is refused with a sentence."""

import copy

import pytest
import torch
from accelerate import Accelerator
from timm.optim import get_optimizer_info, list_optimizers
from torch import nn

from zoo.training import RecipeError, Trainer, load_recipe
from zoo.training.optim import Optim, create_optimizer, second_derivatives
from zoo.training.seeds import derive_seed

NAMES = [name for name in list_optimizers() if not isinstance(get_optimizer_info(name).opt_class, str)]
PACKAGED = sorted(set(list_optimizers()) - set(NAMES))  # those that timm imports from another package
SECOND_ORDER = [name for name in NAMES if get_optimizer_info(name).second_order]


@pytest.fixture(autouse=True)
def without_compiling():
    """Kron compiles its products, which takes a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


def recipe(*overrides):
    kwargs = "{img_size: 8, patch_size: 4, in_chans: 1, num_classes: 10, depth: 1, dim: 8}"
    small = ("batch_size=16", "duration=9st", "eval_every=9st", "checkpoint_every=9st")
    return load_recipe(
        "recipes/mixer_digits.yaml",
        [
            f"model={{name: mixer_test, kwargs: {kwargs}}}",
            *(f"train.{key}" for key in small),
            "schedule.warmup=0st",
            *overrides,
        ],
    )


def train(trainer, steps):
    for step in steps:
        trainer._update(step, *trainer.batches[step])
        trainer.step = step + 1
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


@pytest.mark.parametrize("name", [*NAMES, "lbfgs"])
def test_it_trains_and_a_resumed_run_repeats_the_uninterrupted_one(name, tmp_path):
    only = ["optim.lr=1e-2"]
    if name == "lbfgs":
        only = ["train.batch_size=1257", "train.grad_clip=null", "optim.lr=0.1", "optim.weight_decay=0", "data.shift=0"]
        only += ["data.rotate=0", "data.zoom=0"]
    made = recipe(f"optim.name={name}", *only)
    trainer = Trainer(made, tmp_path)
    start = train(trainer, range(0))
    middle = train(trainer, range(2))
    assert any(not torch.equal(a, b) for a, b in zip(start, middle, strict=True))
    trainer.folder.begin(made, 0)
    trainer.save_checkpoint()
    uninterrupted = train(trainer, range(2, 4))
    resumed = Trainer(made, tmp_path)
    assert resumed.step == 2
    assert all(map(torch.equal, train(resumed, range(2, 4)), uninterrupted))
    assert all(parameter.isfinite().all() for parameter in uninterrupted)


class Shapes(nn.Module):
    """A parameter of each number of axes; those of five are weights of KAN convolutions, those of three of experts."""

    def __init__(self):
        super().__init__()
        shapes = [(), (3,), (4, 5), (2, 3, 4), (3, 2, 2, 2), (2, 3, 2, 2, 3)]
        self.all = nn.ParameterList(nn.Parameter(torch.randn(shape)) for shape in shapes)

    def no_weight_decay(self):
        return {"all.0", "all.1"}

    def forward(self):
        return sum(parameter.sin().square().mean() for parameter in self.all)


@pytest.mark.parametrize("name", NAMES)
def test_it_takes_parameters_of_any_shape_and_a_state_that_was_emptied(name):
    """The state is emptied where S-KAN's layers choose."""
    model, optim = Shapes(), Optim(name, lr=1e-2, weight_decay=0.1)
    optimizer = create_optimizer(model, optim)
    before = copy.deepcopy(model.state_dict())

    def loss():
        optimizer.zero_grad()
        value = model()
        value.backward(create_graph=optim.second_order)
        return value

    with second_derivatives(optim.second_order):
        for _ in range(2):
            optimizer.step(loss)
        optimizer.state.clear()
        optimizer.step(loss)
    assert all(p.isfinite().all() and not p.equal(before[key]) for key, p in model.state_dict().items())


@pytest.mark.parametrize("name", PACKAGED)
def test_what_needs_cuda_or_a_package_says_what_to_take(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    package = get_optimizer_info(name).opt_class.partition(".")[0]
    with pytest.raises(ValueError, match=rf"optim.name={name} needs CUDA.*: set optim.name=") as caught:
        Trainer(recipe(f"optim.name={name}"), tmp_path)
    assert str(caught.value).rpartition("=")[2] in NAMES
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda found: None)
    with pytest.raises(ValueError, match=rf"optim.name={name} needs the package {package}, not to be found here"):
        create_optimizer(Shapes(), Optim(name, lr=1e-2, weight_decay=0.0))


@pytest.mark.parametrize("name", [name for name in NAMES if get_optimizer_info(name).has_betas])
def test_betas_are_as_many_as_it_has(name):
    count = get_optimizer_info(name).num_betas
    betas = (0.9, 0.95, 0.99)[:count]
    create_optimizer(Shapes(), Optim(name, lr=1e-2, weight_decay=0.0, betas=betas))
    with pytest.raises(ValueError, match=f"{name} has {count} betas, optim.betas gives {5 - count}: give {count}"):
        Optim(name, lr=1e-2, weight_decay=0.0, betas=(0.9,) * (5 - count))
    with pytest.raises(ValueError, match=r"betas\[0\] is 1.0; it must be at least 0 and below 1"):
        Optim(name, lr=1e-2, weight_decay=0.0, betas=(1.0,) * count)


def test_betas_in_a_recipe():
    assert recipe("optim.name=adan", "optim.betas=[0.9, 0.9, 0.9]").optim.betas == (0.9, 0.9, 0.9)
    with pytest.raises(RecipeError, match="optim: sgd has no betas: remove optim.betas"):
        recipe("optim.name=sgd", "optim.betas=[0.9, 0.9]")


# --- Second order -----------------------------------------------------------------------------------------------------


def test_adahessian_is_of_second_order():
    assert "adahessian" in SECOND_ORDER


@pytest.mark.parametrize("mixers", [{}, {"channel_mixer": "rbf_kan"}, {"token_mixer": "attention"}])
@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_derivatives_are_right(name, mixers, tmp_path):
    """What the optimizer keeps is z * Hz for signs z; Hz by differences of gradients along z. Attention is fused."""
    given = [f"model.kwargs.{kind}={mixer}" for kind, mixer in mixers.items()]
    trainer = Trainer(recipe(f"optim.name={name}", "train.grad_clip=null", *given), tmp_path)
    twin = copy.deepcopy(trainer.model).double()
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    inputs, targets = trainer.batches[0]
    trainer._update(0, inputs, targets)
    assert all(parameter.grad is None for parameter in trainer.model.parameters()), "the graph is held"

    generator = torch.Generator().manual_seed(derive_seed(trainer.optimizer.optimizer.seed, 0))
    signs = [torch.randint(0, 2, p.shape, generator=generator) * 2.0 - 1.0 for p in parameters]

    def gradients(step):
        moved = copy.deepcopy(twin)
        ordered = [moved.get_parameter(names[parameter]) for parameter in parameters]
        with torch.no_grad():
            for parameter, z in zip(ordered, signs, strict=True):
                parameter.add_(z, alpha=step)
        return torch.autograd.grad(nn.functional.cross_entropy(moved(inputs.double()), targets), ordered)

    for parameter, up, down, z in zip(parameters, gradients(1e-5), gradients(-1e-5), signs, strict=True):
        expected = (up - down) / 2e-5 * z
        assert (parameter.hess - expected).abs().max() <= 1e-3 * max(1e-3, expected.abs().max())


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_a_model_without_second_derivatives_is_refused(name, tmp_path):
    trainer = Trainer(recipe(f"optim.name={name}"), tmp_path)
    trainer.model.head.register_forward_hook(lambda module, args, output: Once.apply(output))
    before = train(trainer, range(0))
    with pytest.raises(RuntimeError, match=rf"{name} needs second derivatives, which .* set optim.name=adamw"):
        train(trainer, range(1))
    assert all(map(torch.equal, before, train(trainer, range(0))))


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_derivatives_that_are_not_finite_stop_the_run(name):
    model = Shapes()
    optim = Optim(name, lr=1e-2, weight_decay=0.0)
    optimizer = create_optimizer(model, optim)
    before = copy.deepcopy(model.state_dict())

    def loss():
        (model().square() * 1e30).square().backward(create_graph=True)  # its own gradient, and more so the next

    with pytest.raises(FloatingPointError, match="second derivative is not finite: stopped before the update"):
        optimizer.step(loss)
    assert all(before[key].equal(value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_in_several_processes_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(ValueError, match=rf"{name} differentiates gradients, .* start one process, or set optim.name"):
        Trainer(recipe(f"optim.name={name}"), tmp_path)
