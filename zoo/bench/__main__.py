"""``python -m zoo.bench MODEL …`` is ``zoo bench MODEL …``."""

import sys
from collections.abc import Sequence

from zoo import cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, measure, print a table or JSON."""
    cli.main(["bench", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    main()
