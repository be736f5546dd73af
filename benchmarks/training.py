"""Images a second that the trainer trains, and the memory it takes, by precision and with the model compiled or not.

    python benchmarks/training.py                                     five models at 224 on the GPU, batch 128
    python benchmarks/training.py vit_small_patch16_224 --batch 64    one

How it is measured. Batches of noise lie ready in pinned memory. A way of training runs ten steps unmeasured and then
three times twenty, with the record that is logged every ten steps; the figure is the median of the three. Beside zoo's
trainer stands a hand-written loop with timm's own model of that name, under autocast in bf16, with AdamW as timm makes
it. Each way has the GPU to itself, and its memory is the highest that torch has given out. TF32 stays off.
"""

import argparse
import gc
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from timm.optim import create_optimizer_v2
from torch.nn import functional as F
from trainer import RECIPE, by_zoo

from zoo.training import Trainer, load_recipe

MODELS = ["vit_small_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny", "poolformer_s12", "mixer_s16_224"]
WAYS = {
    "fp32": [],
    "bf16": ["train.precision=bf16"],
    "fp16": ["train.precision=fp16"],
    "bf16, channels last": ["train.precision=bf16", "train.channels_last=true"],
    "bf16, checkpointing": ["train.precision=bf16", "train.grad_checkpointing=true"],
    "bf16, compiled": ["train.precision=bf16", "train.compile=true"],
}
KEYWORDS = {"in_chans": 1, "num_classes": 10}  # as the digits have, whose recipe is trained; the pictures are noise


def by_timm(name: str, batches: Callable[[], list[torch.Tensor]], device: str, compiled: bool) -> Callable[[], None]:
    """A step of the loop that everybody writes, in bf16."""
    model = timm.create_model(name, **KEYWORDS).to(device)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-5, weight_decay=0.05)
    passing = torch.compile(model) if compiled else model

    def step() -> None:
        inputs, targets = (tensor.to(device, non_blocking=True) for tensor in batches())
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = F.cross_entropy(passing(inputs), targets)
        loss.backward()
        optimizer.step()

    return step


def measure(step: Callable[[], None], batch: int, device: str) -> tuple[float, float, float]:
    """Images a second, the spread of the three, and the highest memory in GiB."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(10):
        step()
    rates = []
    for _ in range(3):
        wait()
        start = time.perf_counter()
        for _ in range(20):
            step()
        wait()
        rates.append(20 * batch / (time.perf_counter() - start))
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    return statistics.median(rates), (max(rates) - min(rates)) / statistics.median(rates), memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, timm {timm.__version__}, {place}, batch {args.batch}\n")
    print("| model | way | images/s | spread, % | memory, GiB |\n|---|---|---|---|---|")
    for name in args.models:
        size = (1, *timm.get_pretrained_cfg(name).input_size[1:])
        ready = [(torch.randn(args.batch, *size), torch.randint(10, (args.batch,))) for _ in range(2)]
        ready = [[tensor.pin_memory() if device == "cuda" else tensor for tensor in pair] for pair in ready]
        for way in [*args.ways, "timm, bf16", *(["timm, bf16, compiled"] if "bf16, compiled" in args.ways else [])]:
            torch.compiler.reset()
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            batches = itertools.cycle(ready).__next__
            if way.startswith("timm"):
                step = by_timm(name, batches, device, compiled="compiled" in way)
            else:
                step = by_zoo(_trainer(name, args.batch, WAYS[way]), batches)
            rate, spread, memory = measure(step, args.batch, device)
            del step
            print(f"| {name} | {way} | {rate:.0f} | {100 * spread:.1f} | {memory:.1f} |", flush=True)


def _trainer(name: str, batch: int, overrides: list[str]) -> Trainer:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        model = f"{{name: {name}, kwargs: {json.dumps(KEYWORDS)}}}"
        path.write_text(RECIPE.format(model=model, batch=batch))
        return Trainer(load_recipe(path, overrides), Path(folder) / "run")


if __name__ == "__main__":
    main()
