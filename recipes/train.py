"""Train a recipe, as `zoo train` does, and in a form that `accelerate launch` can start:

    python recipes/train.py recipes/mixer_digits.yaml                          into runs/mixer_digits
    python recipes/train.py recipes/mixer_digits.yaml train.duration=5ep --output runs/short
    python recipes/train.py recipes/mixer_digits.yaml optim.lr=1e-3 --print    show the resolved recipe, do nothing
    python recipes/train.py recipes/mixer_digits.yaml optim.lr=1e-4 --from runs/mixer_digits --output runs/slower
    accelerate launch recipes/train.py recipes/mixer_digits.yaml               on several devices

Run again, it goes on from the last checkpoint. With --from, a new run begins at the last checkpoint of another, by a
recipe that may be another. Two trainings at once cannot write into one folder.
"""

import sys
from collections.abc import Sequence

from zoo import cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    cli.main(["train", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    main()
