"""Formats of exported models, a file each: whatever stands in this folder is one.

A format is an object with the attributes and methods of `Format`, called ``FORMAT`` in its file.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.export import ExportedProgram

from zoo.checks import unknown
from zoo.discovery import modules_of

Run = Callable[[Tensor], Tensor]  # a batch on the CPU to the model's outputs
Record = Callable[[nn.Module], ExportedProgram]


class Format:
    """A way to write a program down, and to run what was written.

    Attributes:
        name: What it is called.
        suffix: How its files end.
        beside: How files end that are written beside it, under the same name.
        needs: Packages that it needs, beside torch.
        extra: The extra of zoo's that installs them.
        of_torch: Whether its runtime has all of torch's operators.
        transposes: Whether its runtime copies at a permutation, so that fewer are better.
        quantises: Whether it has a form in 8 bits.
        open_batch: Whether a file may take batches of any size.
        most_samples: The largest batch of a file for batches of any size, where memory is planned ahead.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = "export"
    of_torch: ClassVar[bool] = False
    transposes: ClassVar[bool] = False
    quantises: ClassVar[bool] = False
    open_batch: ClassVar[bool] = True
    most_samples: ClassVar[int | None] = None

    def write(self, program: ExportedProgram, path: Path, facts: str) -> None:
        """Write a program, and with it the facts, a JSON text, into a file that does not exist yet."""
        raise NotImplementedError

    def quantise(self, path: Path, new: Path, batches: Iterable[Tensor], model: nn.Module, record: Record) -> None:
        """Write a file anew in 8 bits, with scales that fit to batches, if it `quantises`.

        Args:
            path: The file in fp32.
            new: The file to be written.
            batches: Inputs such as the model will see.
            model, record: What the file was written of, and what makes a program of such a module, for formats whose
                files cannot be read back.

        Raises:
            ValueError: There is no batch.
        """
        raise NotImplementedError

    def load(self, path: Path, threads: int | None = None) -> Run:
        """What runs a file on the CPU."""
        raise NotImplementedError

    def facts(self, path: Path) -> dict[str, Any]:
        """The facts that were written into a file."""
        raise NotImplementedError

    def missing(self) -> list[str]:
        """Those of the packages it needs that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


@functools.cache
def formats() -> Mapping[str, Format]:
    """Every format by its name."""
    found = [vars(module)["FORMAT"] for module in modules_of(__name__) if "FORMAT" in vars(module)]
    return {one.name: one for one in sorted(found, key=lambda one: one.name)}


def format_of(name: str) -> Format:
    """The format of a name, if it can be used here.

    Raises:
        ValueError: There is none of that name, or a package that it needs is not installed.
    """
    if name not in formats():
        raise ValueError(unknown(f"format {name!r}", name, formats(), "formats"))
    if missing := formats()[name].missing():
        extra = formats()[name].extra
        raise ValueError(f"the format {name} needs {', '.join(missing)}; install it with: pip install 'zoo[{extra}]'")
    return formats()[name]
