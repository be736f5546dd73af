"""Peak memory of a training step of zoo's model and of timm's: `python benchmarks/memory.py` prints a Markdown table.

What is counted is what torch's allocator hands out during the step, above what was there before it (the weights):
activations, gradients, scratch. The profiler reports every allocation; the peak of their running sum is the figure. It
is the same on every run, and counts no libraries and no pages that the allocator keeps.
"""

import argparse

import timm
import torch
from torch.nn import functional as F

import zoo
from zoo.bench.memory import peak_bytes

MODELS = ("swin_tiny_patch4_window7_224",)


def peak_of_a_step(model: torch.nn.Module, batch: int) -> int:
    """Bytes at the peak of forward, cross entropy and backward, beyond those before the step."""
    model.train()
    x = torch.randn(batch, *model.pretrained_cfg["input_size"])
    target = torch.randint(0, model.num_classes, (batch,))
    peak = peak_bytes(lambda: F.cross_entropy(model(x), target).backward(), torch.device("cpu"))
    model.zero_grad()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    print("| model | batch | timm, MB | zoo, MB | zoo with checkpointing, MB | zoo / timm | checkpointed / zoo |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        theirs = peak_of_a_step(timm.create_model(name), args.batch)
        model = zoo.create_model(name)
        ours = peak_of_a_step(model, args.batch)
        model.set_grad_checkpointing()
        less = peak_of_a_step(model, args.batch)
        sizes = " | ".join(f"{size / 1e6:.0f}" for size in (theirs, ours, less))
        print(f"| {name} | {args.batch} | {sizes} | {ours / theirs:.2f} | {less / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
