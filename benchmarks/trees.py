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
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

from zoo.bench.timing import spread, take_turns

HERE = Path(__file__).resolve().parent.parent
WORKER = HERE / "benchmarks" / "tree_step.py"
CPU = torch.device("cpu")
CASES = [("eval", "float32"), ("eval", "bfloat16"), ("train", "float32"), ("train", "bfloat16"), ("create", "float32")]


class Tree:
    """A process that works with the package of one tree."""

    def __init__(self, path: Path, *case: object):
        self.path, environment = path, os.environ | {"PYTHONPATH": str(path)}
        command = [sys.executable, str(WORKER), *map(str, case)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, cwd=path, stdin=pipe, stdout=pipe, text=True)

    def step(self) -> None:
        print(file=self.process.stdin, flush=True)
        if not self.process.stdout.readline():
            raise RuntimeError(f"the process of {self.path} has ended; what it printed stands above")

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def row(name: str, mode: str, dtype: str, times: dict[str, tuple[float, ...]]) -> str:
    other, this = times["other"], times["this"]
    ratio = spread([a / b for a, b in zip(other, this, strict=True)])
    cells = (name, mode, dtype, f"{ratio.median:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}")
    return f"| {' | '.join(cells)} | {1e3 * spread(this).median:.1f} |"


def importing(tree: Path) -> None:
    """An interpreter imports zoo and ends."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run([sys.executable, "-c", "import zoo"], env=environment, cwd=tree, check=True)


def of_children() -> float:
    """Processor seconds of the processes that have ended: other work on the machine leaves them alone."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="folder of the other tree")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    trees = {"other": args.other.resolve(), "this": HERE}
    print(f"Python {platform.python_version()}, {args.threads} threads, batch {args.batch}, {args.rounds} rounds\n")
    print("| model | mode | precision | this tree / the other | quartiles | ms a step |")
    print("|---|---|---|---|---|---|")
    imports = {which: partial(importing, tree) for which, tree in trees.items()}
    print(row("import zoo", "import", "", take_turns(imports, args.rounds, CPU, of_children)), flush=True)
    for name in args.models:
        for mode, dtype in CASES:
            both = {which: Tree(tree, name, mode, dtype, args.batch, args.threads) for which, tree in trees.items()}
            steps = {which: tree.step for which, tree in both.items()}
            print(row(name, mode, dtype, take_turns(steps, args.rounds, CPU)), flush=True)
            for tree in both.values():
                tree.end()


if __name__ == "__main__":
    main()
