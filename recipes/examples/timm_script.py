"""timm's own scripts on zoo's models: train.py and validate.py of its repository know every name that zoo registers.

    curl -O https://raw.githubusercontent.com/huggingface/pytorch-image-models/main/train.py
    python recipes/examples/timm_script.py train.py --model unireplknet_a --data-dir FOLDER --num-classes 30

The scripts are not in timm's package, so they are fetched, from the tag of the timm that is installed. A name that timm
has too is timm's own model there.
"""

import runpy
import sys
from pathlib import Path

import zoo  # noqa: F401 (tells timm's registry of zoo's models)


def main(arguments: list[str]) -> None:
    """Run a script with these arguments, as Python itself would."""
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: timm_script.py SCRIPT [ARGUMENT]...")
    main(sys.argv[1:])
