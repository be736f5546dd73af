"""What the processes of test_moe_parallel.py and test_moe_transport.py run; gloo, on the CPU."""

import copy
import datetime
import os
import tempfile
from pathlib import Path

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import distributed as dist
from torch import multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import zoo
from zoo.blocks.base import MetaBlock
from zoo.tools.moe.parallel import clip_grad_norm_, expert_parameters, share_losses, whole_state_dict
from zoo.training import Trainer, load_recipe

IMPORTED_ONCE = ["timm", "torch.distributed.fsdp", "zoo.training", "zoo.models.vision.vit"]
BATCH = 8
ALL_LOSSES = "top_k(losses=('balance', 'importance', 'z', 'concentration'))"


def start(function, processes: int, *args) -> None:
    """Run ``function(rank, processes, *args)`` in so many processes; an exception in one of them is raised here."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED_ONCE)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (function, processes, f"file://{folder}/store", args)
        multiprocessing.start_processes(_run, arguments, nprocs=processes, start_method="forkserver")


def _run(rank: int, function, processes: int, store: str, args: tuple) -> None:
    # One thread: those of the process that this one is a fork of are not there, and OpenMP would wait for them.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # or accelerate takes more
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes, timeout=limit)
    try:
        function(rank, processes, *args)
    finally:
        dist.destroy_process_group()


def build(options: dict, name: str = "vit_test", seed: int = 0, **slots) -> torch.nn.Module:
    """A model of mixtures with such options, whose outputs say something of every parameter."""
    torch.manual_seed(seed)
    model = zoo.create_model(name, channel_mixer={"name": "moe", "num_experts": 4} | options, num_classes=5, **slots)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.03)
    return model.train()


def collapse(model) -> None:
    """Let all tokens choose the first experts, so that the others have no rows."""
    for name, parameter in model.named_parameters():
        if name.endswith("router.gate.weight"):
            torch.nn.init.zeros_(parameter)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, 3, 32, 32, generator=generator)
    return x, torch.randint(5, (BATCH,), generator=generator)


def loss_of(model, x, y) -> torch.Tensor:
    logits, aux = model(x, return_aux=True)
    return F.cross_entropy(logits, y) + sum(0.1 * value for key, value in aux.items() if key.startswith("loss/"))


def share(rank: int, processes: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(part.chunk(processes)[rank] for part in batch())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def wrap(model, how: str, mesh, **options):
    """The model under DDP or FSDP2."""
    if how == "ddp":
        return DistributedDataParallel(model)
    options |= {"mesh": mesh, "ignored_params": expert_parameters(model)}
    for block in (module for module in model.modules() if isinstance(module, MetaBlock)):
        fully_shard(block, **options)
    return fully_shard(model, **options)


def close(found, expected, what: str) -> None:
    """Equal to 1e-5 of the largest entry."""
    found, expected = found.double(), expected.double()
    scale = max(expected.abs().max().item(), 1e-2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale, msg=lambda text: f"{what}: {text}")


def mesh_of(shape: tuple[int, ...]):
    return init_device_mesh("cpu", shape, mesh_dim_names=("dp", "ep")[-len(shape) :])


def equals_one_process(rank: int, processes: int, shape: tuple[int, ...], how: str, cases: list[dict]) -> None:
    """Loss, gradients, their norm and the weights after a step are those of one process with the whole batch."""
    mesh = mesh_of(shape)
    for case in cases:
        case = dict(case)
        name, collapsed = case.pop("name", "vit_test"), case.pop("collapsed", False)
        slots = {"token_mixer": case.pop("token_mixer")} if "token_mixer" in case else {}
        # DDP takes the weights of the first process; with FSDP2 all are to have the same.
        one, model = (build(case, name, seed, **slots) for seed in (0, rank if how == "ddp" else 0))
        if collapsed:
            collapse(one)
            collapse(model)
        running = wrap(zoo.expert_parallel(model, mesh), how, mesh)
        for _ in range(2):  # gradients add up
            expected, loss = loss_of(one, *batch()), loss_of(running, *share(rank, processes))
            expected.backward()
            loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        close(mean / processes, expected.detach(), f"{name} {case}: loss")
        gradients = {key: parameter.grad for key, parameter in one.named_parameters()}
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, f"{name} {case}: {key} has no gradient"
            close(whole(parameter.grad), gradients[key], f"{name} {case}: {key}")
        norm = torch.nn.utils.clip_grad_norm_(one.parameters(), 0.1)
        close(clip_grad_norm_(model, 0.1), norm, f"{name} {case}: norm")
        for each in (one, model):
            torch.optim.SGD(each.parameters(), lr=0.1).step()
        state = whole_state_dict(running)
        assert (state.keys() == one.state_dict().keys()) if rank == 0 else not state
        for key, tensor in state.items():
            close(tensor, one.state_dict()[key], f"{name} {case}: {key} after a step")


def stands_empty_shares(rank: int, processes: int, shape: tuple[int, ...], how: str, cases: list[dict]) -> None:
    """All samples are the first process's: loss and gradients are those of one process, and nothing is NaN."""
    mesh, (x, y) = mesh_of(shape), batch()
    mine = slice(None) if rank == 0 else slice(0)

    def loss_of(model, part: slice, factor: float) -> torch.Tensor:
        logits, aux = model(x[part], return_aux=True)
        for key, value in aux.items():
            assert all(t.isfinite().all() for t in (value if isinstance(value, tuple) else (value,))), key
        losses = sum(0.1 * value for key, value in aux.items() if key.startswith("loss/"))
        return factor * F.cross_entropy(logits, y[part], reduction="sum") / len(x) + losses

    for case in cases:
        one, model = build(case), build(case)
        running = wrap(zoo.expert_parallel(model, mesh), how, mesh)
        expected, loss = loss_of(one, slice(None), 1), loss_of(running, mine, processes)
        expected.backward()
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        close(mean / processes, expected.detach(), f"{case}: loss")
        gradients = {key: parameter.grad for key, parameter in one.named_parameters()}
        for key, parameter in model.named_parameters():
            close(whole(parameter.grad), gradients[key], f"{case}: {key}")
        with torch.no_grad():
            found, expected = running.eval()(x[mine]), one.eval()(x)[mine]
        assert found.shape == expected.shape and (rank > 0 or torch.allclose(found, expected, atol=1e-5))


def differentiates_twice(rank: int, processes: int, shape: tuple[int, ...], cases: list[dict]) -> None:
    """The gradient of a gradient's norm, of equal shares, reaches the inputs as in one process."""
    mesh = mesh_of(shape)
    for case in cases:
        one, model = (build(case, "mixer_test") for _ in range(2))  # without attention, which has no second derivatives
        zoo.expert_parallel(model, mesh)
        found = []
        for each, samples in ((one, batch()[0]), (model, share(rank, processes)[0])):
            samples = samples.clone().requires_grad_()
            (first,) = torch.autograd.grad(each(samples).square().sum(), samples, create_graph=True)
            found.append(torch.autograd.grad(first.square().sum(), samples)[0])
        close(found[1], found[0].chunk(processes)[rank], f"{case}: second gradient")


def save(rank: int, processes: int, shape: tuple[int, ...], how: str, options: dict, folder: Path) -> None:
    """Train a step, save the model, and what it makes of a batch."""
    mesh = mesh_of(shape)
    model = zoo.expert_parallel(build(options), mesh)
    running = wrap(model, how, mesh)
    loss_of(running, *share(rank, processes)).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with pytest.raises(ValueError, match="a part of the model's experts"):
        zoo.save_pretrained(model, folder)
    state = whole_state_dict(running)
    with torch.no_grad():
        logits = running.eval()(batch()[0])
    if rank == 0:
        one = build(options)
        one.load_state_dict(state)
        zoo.save_pretrained(one, folder)
        torch.save(logits, folder / "logits.pt")


def keeps_working(rank: int, processes: int) -> None:
    """Split experts under what else is done with a model: checkpointing, noise, autocast, copies, mixed precision."""
    mesh = mesh_of((processes,))
    options = {"router": "top_k(noise=1.0)"}
    x, y = share(rank, processes)

    def gradients(model, running) -> dict:
        torch.manual_seed(rank)
        loss_of(running, x, y).backward()
        return {name: whole(parameter.grad) for name, parameter in model.named_parameters()}

    plain, checkpointed = (zoo.expert_parallel(build(options), mesh) for _ in range(2))
    checkpointed.set_grad_checkpointing()
    expected = gradients(plain, wrap(plain, "ddp", mesh))
    for name, gradient in gradients(checkpointed, wrap(checkpointed, "ddp", mesh)).items():
        close(gradient, expected[name], name)

    one, x = build(options).eval(), batch()[0]
    averaged = ModelEmaV3(plain, decay=0.5, foreach=False)
    averaged.update(plain)
    close(averaged.module.eval()(x).detach(), one(x).detach(), "averaged")
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = plain.eval()(x).float(), one(x).float()
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()

    mixed = zoo.expert_parallel(build(options).eval(), mesh)
    running = wrap(mixed, "fsdp", mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    found, expected = running(x).float(), copy.deepcopy(one).to(torch.bfloat16)(x.to(torch.bfloat16)).float()
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    found.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in expert_parameters(mixed))


def refuses(rank: int, processes: int) -> None:
    """What cannot be split says why."""
    mesh = mesh_of((processes,))
    with pytest.raises(ValueError, match="no mixture of experts"):
        zoo.expert_parallel(zoo.create_model("vit_test"), mesh)
    with pytest.raises(ValueError, match="channel_mixer has 3 experts for 2 processes"):
        zoo.expert_parallel(build({"num_experts": 3}), mesh)
    with pytest.raises(ValueError, match="no dimension 'tp'"):
        zoo.expert_parallel(build({}), mesh, dim="tp")
    with pytest.raises(ValueError, match="1 of 2 processes"):
        zoo.expert_parallel(build({}), mesh_of((2, 1))["ep"])
    with pytest.raises(RuntimeError, match="wrapped by DDP"):
        zoo.expert_parallel(DistributedDataParallel(build({})), mesh)
    model = zoo.expert_parallel(build({"experts": ["mlp"]}), mesh)
    with pytest.raises(ValueError, match="split over processes already"):
        zoo.expert_parallel(model, mesh)
    with pytest.raises(RuntimeError, match="know no transforms of torch.func"):
        torch.func.jvp(zoo.expert_parallel(build({}, "mixer_test"), mesh), (batch()[0],), (batch()[0],))
    with pytest.raises(RuntimeError):  # a module around the model hides what DDP is to leave alone
        DistributedDataParallel(torch.nn.Sequential(model))
    with pytest.raises(RuntimeError, match="split by FSDP"):
        zoo.expert_parallel(fully_shard(build({}), mesh=mesh), mesh)


def transports(rank: int, processes: int, how: str, name: str, cases: list[dict]) -> None:
    """Under DDP and FSDP2 alone the gradients are those of one process, also of experts without a token."""
    mesh = mesh_of((processes,))
    for case in cases:
        case = dict(case)
        collapsed = case.pop("collapsed", False)
        one, model = build(case, name), build(case, name)
        if collapsed:
            collapse(one)
            collapse(model)
        share_losses(model)
        running = wrap(model, how, mesh)
        loss_of(one, *batch()).backward()
        loss_of(running, *share(rank, processes)).backward()
        gradients = {key: parameter.grad for key, parameter in one.named_parameters()}
        for key, parameter in model.named_parameters():
            close(whole(parameter.grad), gradients[key], f"{name} {case}: {key}")
            assert "router" not in key or gradients[key].abs().sum() > 0


def trains(rank: int, processes: int, recipe: Path, output: Path) -> None:
    """A run of the trainer."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    trainer = Trainer(load_recipe(recipe), output)
    assert trainer.accelerator.num_processes == processes
    trainer.run()
