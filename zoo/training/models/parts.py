"""A model that stands on one of zoo's as a folder: its heads are a file, which names the folder of the model below."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.checks import printable, shown
from zoo.hub import is_saved, remove_saved, save_pretrained
from zoo.hub.bounds import Sizes
from zoo.hub.config import naming
from zoo.storage.files import folder_at, is_file
from zoo.storage.pointers import Pointer, steady
from zoo.weights import read_state_dict

T = TypeVar("T")
Saved = tuple[Mapping[str, Tensor], str]  # the tensors of a file of heads, and what errors call the file


@contextmanager
def unallocated(where: str) -> Iterator[None]:
    """Modules are made without memory here, by what a file says of them; nothing else can be the cause of an error.

    Raises:
        ValueError, TypeError: They cannot be made; the message names the file.
    """
    with naming(where, any_error=True), torch.device("meta"), Sizes():
        yield


@dataclass(frozen=True)
class Parts:
    """How such a folder is written, and what is read of it.

    Attributes:
        owner: Name of the class whose models these are.
        below: What the model below is called there: the name of its folder, which may have eight more digits.
        heads: Name of the file of the heads.
    """

    owner: str
    below: str
    heads: str

    def save(self, folder: Path | str, model: nn.Module, heads: nn.Module, metadata: Mapping[str, str]) -> None:
        """Write a folder; it holds a whole model at every instant, for whoever reads and however many save at once.

        The model below goes into a folder of its own, with a name that was never given before. The file of the heads
        names it, and it is the renaming of that file which exchanges an old model for the new one. Then the folder that
        the old file named is removed; other files and folders stay, and so does what somebody has put into it.

        Args:
            folder: Where to.
            model: The model below, of `zoo.create_model`.
            heads: What stands on it.
            metadata: What else is needed to build both again.

        Raises:
            ValueError: The model has what a file cannot hold, as in `zoo.save_pretrained`.
            FileExistsError: The folder has a file of the heads' name that was not written so.
            OSError: The folder cannot be written, or is full; the old model stays.
        """
        folder = folder_at(folder)
        state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in heads.state_dict().items()}
        size = sum(tensor.nbytes for part in (state, model.state_dict()) for tensor in part.values())
        with self.pointer.exchanging(folder, size) as (new, name):
            save_pretrained(model, new / name)
            save_file(state, new / self.heads, metadata={"format": "pt", **metadata, self.below: name})

    def open(self, folder: Path | str, make: Callable[[str, dict[str, Tensor], dict[str, str]], T]) -> T:
        """A model of the class, whole also while another process saves.

        Args:
            folder: The folder.
            make: Makes it of the name of the model below for `zoo.create_model`, the state of the heads, and the
                metadata; called again if all these were exchanged meanwhile.

        Raises:
            FileNotFoundError: There is no file of the heads.
            ValueError: It cannot be what `save` wrote.
        """
        path = Path(folder) / self.heads
        where = printable(path, 500)
        if not is_file(path):
            raise FileNotFoundError(
                f"{printable(folder, 500)} holds no {self.owner}: there is no {where}; {self.owner}.save makes one"
            )

        def read() -> tuple[dict[str, Tensor], dict[str, str]]:
            state = read_state_dict(path)
            with safe_open(path, "pt") as file:
                return state, file.metadata() or {}

        def whole() -> T:
            state, metadata = steady(path, read, twice=True)
            name = metadata.get(self.below, "")
            if not self.pointer.owns(name):
                raise ValueError(f"{where} names {shown(name)} as its {self.below}, which {self.owner}.save never does")
            with naming(path):
                return make(f"local-dir:{path.parent / name}", state, metadata)

        return steady(path, whole)

    @property
    def pointer(self) -> Pointer:
        """How the folder is written."""
        return Pointer(self.heads, self.below, self._named, remove_saved)

    def _named(self, path: Path) -> str | None:
        """The folder that a file of heads names: that of the model below.

        One that is damaged is put right by saving, if it is empty or has a model beside it that can be the one below.

        Raises:
            FileExistsError: It is somebody's own.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
        except FileNotFoundError:
            return None
        except SafetensorError:
            beside = (path_beside for path_beside in path.parent.iterdir() if self.pointer.owns(path_beside.name))
            if not path.stat().st_size or any(is_saved(path_beside) for path_beside in beside):
                return None
            metadata = {}
        if self.below not in metadata:
            raise FileExistsError(
                f"{printable(path)} was not written by {self.owner}.save and would be lost; choose another folder"
            )
        return metadata[self.below]
