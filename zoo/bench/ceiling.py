"""The machine's own ceilings: how fast it multiplies matrices and moves memory, with the same threads."""

import torch
from torch import Tensor

from zoo.bench.timing import take_turns

SIZES = (512, 1024, 2048)


def matmul_ceiling(dtype: torch.dtype, device: torch.device, rounds: int = 7) -> float:
    """FLOPs a second of the fastest square product, of some sizes: the median of its rounds."""
    pairs: dict[str, tuple[Tensor, Tensor]] = {
        str(n): (torch.randn(n, n, dtype=dtype, device=device), torch.randn(n, n, dtype=dtype, device=device))
        for n in SIZES
    }
    calls = {name: lambda a=a, b=b: torch.mm(a, b) for name, (a, b) in pairs.items()}
    times = take_turns(calls, rounds, device)
    return max(2 * int(name) ** 3 / sorted(seconds)[len(seconds) // 2] for name, seconds in times.items())


def memory_ceiling(device: torch.device, rounds: int = 7) -> float:
    """Bytes a second that a copy of 256 MB reads and writes: the median of its rounds."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    times = take_turns({"copy": lambda: target.copy_(source)}, rounds, device)["copy"]
    return 2 * source.nbytes / sorted(times)[len(times) // 2]
