"""zoo's models against timm's of the same names, in every way to run them: ``python benchmarks/ways.py MODEL … ``.

A row a model, precision and batch, printed as soon as it is measured: milliseconds of each way, timm's over zoo's (more
is better), and both at their fastest. A model that timm does not have stands alone.
"""

import argparse
import itertools
import statistics

import timm

from zoo.bench import WAYS, compare

WANTED = ("eager", "compile", "compile_frozen", "onnxruntime", "openvino")


def main() -> None:
    """Read the arguments, measure row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--ways", nargs="+", default=WANTED, choices=[*WAYS], metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print(f"| model | precision | batch | {' | '.join(args.ways)} | fastest of both | share of the ceiling |")
    print("|---" * (len(args.ways) + 5) + "|")
    for name, precision, batch in itertools.product(args.models, args.precision, args.batch):
        print(row(name, precision, batch, args), flush=True)


def row(name: str, precision: str, batch: int, args: argparse.Namespace) -> str:
    """The row of a table: ``timm / zoo = ratio`` for each way, in milliseconds."""
    candidates = [name, f"timm:{name}"][: 1 + timm.is_model(name)]
    shared = dict(ways=args.ways, threads=args.threads, rounds=args.rounds)
    report = compare(candidates, precisions=[precision], batch_sizes=[batch], **shared)
    found = {(one.contender.candidate, one.contender.way): one for one in report.rows}
    cells = [cell(*(found.get((who, way)) for who in candidates)) for way in args.ways]
    best = [report.fastest(who, batch) for who in candidates]
    ways = " / ".join(one.contender.way for one in reversed(best))
    last = [f"{cell(*best)} ({ways})", f"{best[0].share_of_ceiling:.2f}"]
    return f"| {' | '.join([name, precision, str(batch), *cells, *last])} |"


def cell(ours, theirs=None) -> str:
    """Milliseconds of both, and the median of the ratios of the rounds."""
    if ours is None:
        return ""
    if theirs is None:
        return f"{1e3 * ours.median:.1f}"
    ratio = statistics.median(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))
    return f"{1e3 * theirs.median:.1f} / {1e3 * ours.median:.1f} = {ratio:.2f}"


if __name__ == "__main__":
    main()
