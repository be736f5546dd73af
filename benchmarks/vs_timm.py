"""Images per second of zoo over timm, with the same weights: `python benchmarks/vs_timm.py` prints a Markdown table.

How it is measured. Both models stand in one process and take turns on the same batch: one call of timm's, one of
zoo's, the next round in the other order. A round's ratio is timm's time over zoo's, and the figure is the median over
the rounds, with the quartiles behind it. Machine noise hits both of a pair alike; times alone mean little on a shared
machine and are printed for orientation only. Before the clock starts the outputs are compared, so that what is timed
is the same function.

A training step is forward, cross-entropy, backward and zero_grad; bf16 is the whole model in bfloat16, eval in
inference mode.
"""

import argparse
import platform
import statistics

import timm
import torch
from torch.nn import functional as F

import zoo
from zoo.bench.timing import take_turns

MODELS = (
    "mixer_s16_224",
    "gmixer_12_224",
    "resmlp_12_224",
    "gmlp_s16_224",
    "vit_small_patch16_224",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "poolformer_s12",
    "poolformerv2_s12",
    "convformer_s18",
    "caformer_s18",
    "convnext_tiny",
)


def pair(name: str, dtype: torch.dtype) -> tuple[torch.nn.Module, torch.nn.Module]:
    """timm's model with random weights in every parameter, and zoo's with the same."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, drop_path_rate=0.0)  # some drop paths by default, at random
    with torch.no_grad():
        for parameter in theirs.parameters():  # heads start at zero, which would make the check of outputs vacuous
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    ours = zoo.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"state_dict": theirs.state_dict()}, drop_path_rate=0.0
    )
    return theirs.to(dtype), ours.to(dtype)


def stepper(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor, train: bool):
    """A function that does one unit of work."""

    def step() -> None:
        if train:
            F.cross_entropy(model(x), target).backward()
            model.zero_grad()
        else:
            with torch.inference_mode():
                model(x)

    return step


def compare(name: str, dtype: torch.dtype, train: bool, batch: int, rounds: int) -> tuple[list[float], float]:
    """Ratios of timm's time over zoo's, one a round, and zoo's median seconds."""
    theirs, ours = pair(name, dtype)
    size = ours.pretrained_cfg["input_size"]
    x, target = torch.randn(batch, *size, dtype=dtype), torch.randint(0, 1000, (batch,))
    with torch.no_grad():
        a, b = theirs.eval()(x).float(), ours.eval()(x).float()
    error = ((a - b).abs().max() / a.abs().max()).item()
    if error > (1e-4 if dtype is torch.float32 else 0.1):
        raise RuntimeError(f"{name}: outputs differ by {error:.1e}, so the times would not be of the same function")
    theirs.train(train), ours.train(train)
    steps = {"timm": stepper(theirs, x, target, train), "zoo": stepper(ours, x, target, train)}
    times = take_turns(steps, rounds, torch.device("cpu"))
    ratios = [a / b for a, b in zip(times["timm"], times["zoo"], strict=True)]
    return ratios, statistics.median(times["zoo"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}, "
        f"{args.threads} threads, batch {args.batch}, {args.rounds} rounds\n"
    )
    print("| model | mode | precision | zoo / timm | quartiles | zoo images/s |")
    print("|---|---|---|---|---|---|")
    for name in args.models:
        for train in (False, True):
            for dtype in (torch.float32, torch.bfloat16):
                ratios, seconds = compare(name, dtype, train, args.batch, args.rounds)
                low, middle, high = statistics.quantiles(ratios, n=4)
                print(
                    f"| {name} | {'train' if train else 'eval'} | {'fp32' if dtype is torch.float32 else 'bf16'} "
                    f"| {middle:.2f} | {low:.2f} to {high:.2f} | {args.batch / seconds:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
