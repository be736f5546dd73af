"""What the training loop adds to a model's own step: zoo's trainer beside a loop written by hand, in turns.

    python benchmarks/trainer.py                                  the digits' mixer, and vit_small_patch16_224 at 224
    python benchmarks/trainer.py poolformer_s12 --batch 16 --rounds 30

How it is measured. Three models with the same weights train on the same batches, which lie ready in memory: one by the
trainer's step as a recipe runs it (rates, seeds, loss, gradient, its norm, the check that both are finite, update, a
record every ten steps), the others by the five lines that everybody writes, with AdamW as timm's function makes it and
with the same in one kernel (`fused`), as the trainer has it. They take turns, a step of each. A round's ratio is the
trainer's time over a loop's: 1.03 is 3 % more. `data` takes the batches from the trainer's loader on one side and from
plain DataLoaders over the same images, with the same augmentation, on the other.
"""

import argparse
import copy
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from zoo.bench.timing import spread, take_turns
from zoo.training import Trainer, load_recipe
from zoo.training.data.batches import loader
from zoo.training.runs.records import as_numbers

RECIPE = """\
task: {{name: classify}}
model: {model}
data: {{name: digits, shift: 0.7, rotate: 15, zoom: 0.15}}
train: {{duration: 100000st, batch_size: {batch}, eval_every: 100000st, checkpoint_every: 100000st}}
optim: {{name: adamw, lr: 1e-5, weight_decay: 0.05}}
schedule: {{name: constant}}
expect: {{metric: test/top1, status: untested}}
"""
DIGITS = "{name: mixer_s16_224, kwargs: {img_size: 8, patch_size: 2, in_chans: 1, num_classes: 10, dim: 64, depth: 3}}"
CPU = torch.device("cpu")


def by_hand(
    model: nn.Module, batches: Callable[[], tuple[torch.Tensor, torch.Tensor]], **options: bool
) -> Callable[[], None]:
    """The loop that everybody writes, a step of it; with options of the optimizer."""
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-5, weight_decay=0.05, **options)
    model.train()

    def step() -> None:
        inputs, targets = batches()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return step


def by_zoo(trainer: Trainer, batches: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], None]:
    """A step of the trainer's loop, with what it logs."""
    numbers = itertools.count()

    def step() -> None:
        number = next(numbers)
        record = trainer._update(number, *batches())
        if number % 10 == 9:
            trainer.stepper.settle(number)
            as_numbers(record)

    return step


class Plain(Dataset):
    """Batches of a split as anybody would draw them: indices from torch's own generator."""

    def __init__(self, split, batch: int):
        self.split, self.batch = split, batch

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        indices = torch.randperm(len(self.split))[: self.batch].tolist()
        return self.split.fetch(indices, number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a model at its own image size, on pictures of noise")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| model | batches | batch | trainer / loop | quartiles | trainer / fused loop | quartiles | loop, ms |")
    print("|---" * 8 + "|")
    cases = [(args.model, args.batch)] if args.model else [(None, 32), ("vit_small_patch16_224", args.batch)]
    for name, batch in cases:
        for batches in ("ready", "data") if name is None else ("ready",):
            print(row(name, batches, batch, args.rounds if name is None else max(10, args.rounds // 10)), flush=True)


def row(name: str | None, kind: str, batch: int, rounds: int) -> str:
    model = DIGITS if name is None else f"{{name: {name}, kwargs: {{in_chans: 1, num_classes: 10}}}}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(RECIPE.format(model=model, batch=batch))
        trainer = Trainer(load_recipe(path), Path(folder) / "run")
    split = trainer.splits["train"]
    if kind == "data":

        def plain() -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
            return iter(DataLoader(Plain(split, batch), batch_size=None, sampler=range(10**6))).__next__

        batches = [loader(trainer.batches, range(10**6)).__next__, plain(), plain()]
    else:
        ready = [(torch.randn(batch, *trainer.model.input_size), torch.randint(10, (batch,))) for _ in range(4)]
        batches = [itertools.cycle(ready).__next__ for _ in range(3)]
    calls = {
        "loop": by_hand(copy.deepcopy(trainer.model), batches[1]),
        "fused": by_hand(copy.deepcopy(trainer.model), batches[2], fused=True),
        "zoo": by_zoo(trainer, batches[0]),
    }
    times = take_turns(calls, rounds, CPU)
    ratios = []
    for loop in ("loop", "fused"):
        ratio = spread([a / b for a, b in zip(times["zoo"], times[loop], strict=True)])
        ratios += [f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}"]
    shown = (name or "mixer of the digits", kind, batch, *ratios, f"{1e3 * spread(times['loop']).median:.1f}")
    return f"| {' | '.join(map(str, shown))} |"


if __name__ == "__main__":
    main()
