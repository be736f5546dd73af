"""What is asked before an atlas is begun: whether it may go there, and whether what makes it is installed."""

import importlib
import os
import sys
from pathlib import Path

from zoo.checks import printable

MARK = ".zoo-atlas"  # a file in every atlas: a folder with it is written anew, another is left alone
# Packages by the modules that are imported; the last ones are asked for by the pages of the API.
PACKAGES = {
    **{"material": "mkdocs-material", "mkdocstrings_handlers.python": "mkdocstrings[python]", "yaml": "pyyaml"},
    **{"plotly": "plotly", "itables": "itables", "pandas": "pandas", "matplotlib": "matplotlib"},
    **{"accelerate": "accelerate", "sklearn": "scikit-learn", "psutil": "psutil", "tqdm": "tqdm"},
}


def checked_target(folder: str | os.PathLike) -> Path:
    """The folder to be written, whole, with its parent made; refused where something else would be lost.

    Raises:
        ValueError: It holds something else than an atlas, is a file, is in use as the current folder or a mount point,
            or cannot be made.
    """
    where = printable(folder, 500)
    try:
        target = Path(folder).resolve()
        if target.is_dir() and any(target.iterdir()) and not (target / MARK).exists():
            raise ValueError(f"{where} holds something else than an atlas; name another folder")
        if target.exists() and not target.is_dir():
            raise ValueError(f"{where} is a file; name a folder")
        if Path.cwd().is_relative_to(target) or target.is_mount():
            raise ValueError(f"{where} is a folder in use, and cannot be replaced as a whole; name one below it")
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{where} cannot be made: {error.strerror}; name another folder") from error
    return target


def check_installed() -> None:
    """Refuse to begin without what the site is made with.

    Raises:
        ModuleNotFoundError: A package is not installed; the message says how it gets there.
        ValueError: Python leaves docstrings out.
    """
    if sys.flags.optimize > 1:
        raise ValueError("the atlas is written from docstrings, which python -OO leaves out; run it without -OO")
    for module, package in PACKAGES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            told = f"the atlas is written with {package}, which is not installed: pip install 'zoo[atlas]'"
            raise ModuleNotFoundError(told, name=error.name) from error
