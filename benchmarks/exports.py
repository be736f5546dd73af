"""Which models go where: ``python benchmarks/exports.py [--to FORMAT …] [MODEL …]``, a row a model.

Every model is exported with batches of any size, run and compared with itself; a cell is the relative difference, or
why there is none. Without models all variants of the registry are taken that have no more than a number of parameters.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import zoo
from zoo.export import export_model, formats


def main() -> None:
    """Read the arguments, export row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--to", nargs="+", default=["onnx", "exported"], choices=[*formats()], metavar="FORMAT")
    parser.add_argument("--most", type=float, default=60, help="millions of parameters of the models that are taken")
    args = parser.parse_args()
    print(f"| model | {' | '.join(args.to)} |\n|---{'|---' * len(args.to)}|")
    for name in args.models or zoo.list_models():
        with torch.device("meta"):
            params = sum(p.numel() for p in zoo.create_model(name).parameters())
        if args.models or params < args.most * 1e6:
            print(f"| {name} | {' | '.join(tried(name, to) for to in args.to)} |", flush=True)


def tried(name: str, to: str) -> str:
    """The difference of an exported model from itself, or the reason why it cannot be exported."""
    torch.manual_seed(0)
    model = zoo.create_model(name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return f"{export_model(model, Path(folder) / 'model', to).difference:.0e}"
        except ValueError as error:
            return str(error).replace("|", "/").splitlines()[0][:160]


if __name__ == "__main__":
    main()
