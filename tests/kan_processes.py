"""What the processes of test_kan_processes.py run; gloo, on the CPU."""

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

import zoo
from zoo.blocks.kan.select import Selectable
from zoo.tools.kan.grid import update_grid
from zoo.tools.kan.sparsity import prune


def select(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Selectable):
            with torch.no_grad():
                module.gates.logits.normal_()
            module.select()


def batch(model: torch.nn.Module, size: int = 8) -> torch.Tensor:
    return torch.randn(size, *model.input_size, generator=torch.Generator().manual_seed(1))


def everywhere(tensor: torch.Tensor) -> list[torch.Tensor]:
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(found, tensor.contiguous())
    return found


def follows_the_first(rank: int, processes: int) -> None:
    """DDP gives all processes the first one's tensors, and with them what they compute."""
    changes = [
        ("spline", lambda model, x: update_grid(model, x)),
        ("spline", lambda model, x: prune(model, x, threshold=0.5)),
        ("select", lambda model, x: select(model)),
    ]
    for layer, change in changes:
        torch.manual_seed(rank)
        model = zoo.create_model("kan_function", layer=layer)
        x = batch(model)
        model(x)
        if rank == 0:
            change(model, x)
        expected = everywhere(model(x).detach())[0]
        wrapped = DistributedDataParallel(model)
        torch.testing.assert_close(wrapped(x).detach(), expected)
        with torch.no_grad():  # and in the first forward pass after the first process has changed again
            model.body[0].weight.mul_(2 if rank == 0 else 1)
            dist.broadcast(model.body[0].weight, 0)
        if layer == "spline" and rank == 0:
            prune(model, x, threshold=0.8)
        found = everywhere(wrapped(x).detach())
        torch.testing.assert_close(found[1], found[0])


def trains_after_the_choice(rank: int, processes: int, cases: list[tuple[str, dict]]) -> None:
    """Plain DDP, which waits for every parameter's gradient; all is as in one process with the whole batch."""
    for name, slots in cases:
        torch.manual_seed(0)
        model = zoo.create_model(name, **slots).train()
        torch.manual_seed(0)
        alone = zoo.create_model(name, **slots).train()
        wrapped = DistributedDataParallel(model)
        x = batch(model)
        for step in range(4):
            if step == 2:
                for one in (model, alone):
                    torch.manual_seed(3)
                    select(one)
            for one, part in ((wrapped, x.chunk(processes)[rank]), (alone, x)):
                one.zero_grad()
                (one(part) - 1).square().mean().backward()
                with torch.no_grad():
                    for parameter in one.parameters():
                        parameter.sub_(parameter.grad, alpha=0.01)
        for key, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, alone.state_dict()[key], rtol=1e-4, atol=1e-5, msg=f"{name}: {key}")
