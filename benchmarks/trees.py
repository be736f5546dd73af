"""Speed of zoo in this tree over zoo in another, say a worktree of an older commit.

    git worktree add ../before v0.1 && python benchmarks/trees.py ../before poolformer_s12 vit_small_patch16_224

How it is measured. Each tree has a process of its own with the same model and the same batch; the two take turns, so
that only one computes at a time: a step of the one, a step of the other, the next round in the other order. A round's
ratio is the other tree's time over this one's: above 1, this tree is faster. The figure is the median over the rounds,
with the quartiles behind it. Creation is timed too, and the time until `import zoo` has ended.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
CASES = [("eval", "float32"), ("eval", "bfloat16"), ("train", "float32"), ("train", "bfloat16"), ("create", "float32")]


def work(name: str, mode: str, dtype: str, batch: int, threads: int) -> None:
    """What a tree's process does: one step for every line that it is sent, and the seconds of it for an answer."""
    import torch
    from torch.nn import functional as F

    import zoo

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = zoo.create_model(name, drop_path_rate=0.0).to(getattr(torch, dtype)).train(mode == "train")
    x, target = torch.randn(batch, *model.input_size, dtype=getattr(torch, dtype)), torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        if mode == "create":
            zoo.create_model(name)
        elif mode == "train":
            F.cross_entropy(model(x), target).backward()
            model.zero_grad()
        else:
            with torch.inference_mode():
                model(x)

    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)


class Tree:
    """A process that works with the package of one tree."""

    def __init__(self, path: Path, *case: object):
        environment = os.environ | {"PYTHONPATH": str(path)}
        command = [sys.executable, str(Path(__file__).resolve()), "--work", *map(str, case)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, cwd=path, stdin=pipe, stdout=pipe, text=True)

    def step(self) -> float:
        print(file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def take_turns(steps: list, rounds: int) -> list[tuple[float, float]]:
    """Times of two functions that give their seconds, a pair a round, after two rounds that do not count."""
    times = []
    for i in range(rounds + 2):
        took = {which: steps[which]() for which in ((0, 1) if i % 2 == 0 else (1, 0))}
        times.append((took[0], took[1]))
    return times[2:]


def row(name: str, mode: str, dtype: str, times: list[tuple[float, float]]) -> str:
    low, middle, high = statistics.quantiles([other / this for other, this in times], n=4)
    seconds = statistics.median(this for _, this in times)
    return f"| {name} | {mode} | {dtype} | {middle:.2f} | {low:.2f} to {high:.2f} | {1e3 * seconds:.1f} |"


def importing(tree: Path) -> float:
    """Processor seconds of an interpreter that imports zoo and ends."""
    before = os.times()
    subprocess.run(
        [sys.executable, "-c", "import zoo"], env=os.environ | {"PYTHONPATH": str(tree)}, cwd=tree, check=True
    )
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="folder of the other tree")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    trees = [args.other.resolve(), HERE]
    print(f"Python {platform.python_version()}, {args.threads} threads, batch {args.batch}, {args.rounds} rounds\n")
    print("| model | mode | precision | this tree / the other | quartiles | ms a step |")
    print("|---|---|---|---|---|---|")
    imports = [lambda tree=tree: importing(tree) for tree in trees]
    print(row("import zoo", "import", "", take_turns(imports, args.rounds)), flush=True)
    for name in args.models:
        for mode, dtype in CASES:
            both = [Tree(tree, name, mode, dtype, args.batch, args.threads) for tree in trees]
            print(row(name, mode, dtype, take_turns([tree.step for tree in both], args.rounds)), flush=True)
            for tree in both:
                tree.end()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        name, mode, dtype, batch, threads = sys.argv[2:]
        sys.path.pop(0)  # the folder of this file
        work(name, mode, dtype, int(batch), int(threads))
    else:
        main()
