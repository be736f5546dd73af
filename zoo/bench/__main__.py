"""``python -m zoo.bench MODEL …``: times of models and ways, side by side."""

import argparse
from pathlib import Path

from zoo.bench import WAYS, by_block, compare
from zoo.bench.place import model_of
from zoo.checks import printable


def main(arguments: list[str] | None = None) -> None:
    """Read the arguments, measure, print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m zoo.bench", description=compare.__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="names of zoo's models, or timm:<name> for timm's own")
    parser.add_argument("--way", nargs="+", default=["eager"], choices=[*WAYS], metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--all-ways", action="store_true", help="every way that is there")
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16", "int8"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1], help="numbers of samples")
    parser.add_argument("--train", action="store_true", help="a training step and not a forward pass")
    parser.add_argument("--memory", action="store_true", help="peak memory too")
    parser.add_argument("--blocks", metavar="PNG", help="time the blocks of one model, and draw the waterline picture")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="every round, as JSON")
    args = parser.parse_args(arguments)
    shared = dict(device=args.device, threads=args.threads, rounds=args.rounds)
    try:
        if args.blocks:
            _blocks(args, shared)
            return
        ways = tuple(WAYS) if args.all_ways else tuple(args.way)
        kinds = dict(ways=ways, precisions=args.precision, batch_sizes=args.batch, training=args.train)
        found = compare(args.models, **kinds, memory=args.memory, **shared)
        print(found.to_json() if args.json else found)
    except (ValueError, TypeError) as error:
        parser.exit(2, f"error: {error}\n")


def _blocks(args: argparse.Namespace, shared: dict) -> None:
    """Time the blocks of one model, print the table, draw the picture."""
    path, more = Path(args.blocks), args.train or args.memory or args.json or args.all_ways or args.way != ["eager"]
    if more or any(len(values) > 1 for values in (args.models, args.batch, args.precision)):
        raise ValueError("--blocks times one model, eager, in one precision, on one batch; leave the others out")
    if path.suffix != ".png" or not path.parent.is_dir():
        raise ValueError(
            f"--blocks {printable(path, 500)} cannot be written; name a .png file in a folder that is there"
        )
    report = by_block(model_of(args.models[0]), batch_size=args.batch[0], precision=args.precision[0], **shared)
    report.plot(path)
    print(report)
    print(f"\nThe picture is in {path}.")


if __name__ == "__main__":
    main()
