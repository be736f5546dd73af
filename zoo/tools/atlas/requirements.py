"""What is asked before an atlas is begun: whether it may go there, and whether what makes it is installed."""

from pathlib import Path

from zoo.checks import printable

MARK = ".zoo-atlas"  # a file in every atlas: a folder with it is written anew, another is left alone


def check_target(target: Path) -> None:
    """Refuse a folder in which something else than an atlas would be lost.

    Raises:
        ValueError: There is such a thing.
    """
    if target.is_dir() and any(target.iterdir()) and not (target / MARK).exists():
        raise ValueError(f"{printable(target, 500)} holds something else than an atlas; name another folder")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{printable(target, 500)} is a file; name a folder")


def check_installed() -> None:
    """Refuse to begin without what the site is made with.

    Raises:
        ImportError: It is not installed; the message says how it gets there.
    """
    try:
        import itables  # noqa: F401
        import material  # noqa: F401
        import mkdocstrings_handlers.python  # noqa: F401
        import pandas  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the atlas is written with {error.name}: pip install 'zoo[atlas]'") from error
