"""A model that stands on one of zoo's as a folder: its heads are a file, which names the folder of the model below."""

import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import zoo
from zoo.files import replacing, temporaries, writing
from zoo.hub import saved_files
from zoo.weights import read_state_dict


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
        """Write a folder; it holds a whole model at every instant.

        The model below goes into a folder of its own. The file of the heads names it, and it is the renaming of that
        file which exchanges an old model for the new one. Then the folder that the old file named is removed; other
        files and folders stay.

        Args:
            folder: Where to.
            model: The model below, of `zoo.create_model`.
            heads: What stands on it.
            metadata: What else is needed to build both again.

        Raises:
            ValueError: The model has what a file cannot hold, as in `zoo.save_pretrained`.
            FileExistsError: The folder has a file of the heads' name that was not written so.
        """
        folder = Path(folder)
        with writing(folder) as alone:
            name = f"{self.below}-{uuid.uuid4().hex[:8]}"
            new = folder / f".{name}.tmp"
            if not (folder / self.below).exists():
                name = self.below
            old = [one for one in self._named(folder / self.heads) if one != name]
            try:
                zoo.save_pretrained(model, new)
                metadata = {"format": "pt", **metadata, self.below: name}
                metadata["replaces"] = " ".join(old)  # for the next save, if this one is killed before it removes them
                with replacing(folder / self.heads) as file:
                    state = {key: tensor.cpu().contiguous() for key, tensor in heads.state_dict().items()}
                    save_file(state, file, metadata=metadata)
                    new.replace(folder / name)
            finally:
                if new.exists():
                    shutil.rmtree(new)
            unfinished, parts = [], []  # of saves that were killed; the former name the folder that was to be theirs
            if alone():
                unfinished = temporaries(folder, re.escape(self.heads))
                parts = folder.glob(f".{self.below}-" + "[0-9a-f]" * 8 + ".tmp")
            for path in parts:
                shutil.rmtree(path)
            for one in {*old, *(one for path in unfinished for one in self._named(path))} - {name}:
                if (folder / one).is_dir():
                    _remove(folder / one)
            for path in unfinished:
                path.unlink()

    def open(self, folder: Path | str) -> tuple[str, dict[str, Tensor], dict[str, str]]:
        """The name of the model below for `zoo.create_model`, the state of the heads, and the metadata.

        Raises:
            FileNotFoundError: There is no file of the heads.
            ValueError: It cannot be what `save` wrote.
        """
        path = Path(folder) / self.heads
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no {self.owner}: there is no {path}; {self.owner}.save makes one")
        state = read_state_dict(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        name = metadata.get(self.below, "")
        if not self._is_ours(name):
            raise ValueError(f"{path} names {name!r} as its {self.below}, which {self.owner}.save never does")
        return f"local-dir:{path.parent / name}", state, metadata

    def _is_ours(self, name: str) -> bool:
        return re.fullmatch(rf"{self.below}(?:-[0-9a-f]{{8}})?", name) is not None

    def _named(self, path: Path) -> list[str]:
        """The folders that a file of heads names: that of the model below, and those that this one replaced."""
        if not path.exists():
            return []
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
        except SafetensorError:  # a damaged one is put right by saving
            return []
        if self.below not in metadata:
            raise FileExistsError(
                f"{path} was not written by {self.owner}.save and would be lost; choose another folder"
            )
        return [name for name in (metadata[self.below], *metadata.get("replaces", "").split()) if self._is_ours(name)]


def _remove(folder: Path) -> None:
    """Remove a saved model, but not what somebody else has put into its folder."""
    own = saved_files(folder)
    if set(folder.iterdir()) <= own:
        shutil.rmtree(folder)
    else:
        for path in own:
            path.unlink()
