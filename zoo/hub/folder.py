"""The folder of a saved model as it lies on the disk: a config.json that names its weights, exchanged as one."""

import json
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from zoo.checks import printable
from zoo.hub.config import CONFIG, read_json
from zoo.hub.shards import INDEX, shards_of
from zoo.storage.files import is_file
from zoo.storage.pointers import Pointer


def is_saved(folder: Path) -> bool:
    """Whether a folder holds what `save_pretrained` has written."""
    with suppress(OSError):
        return (name := _named_weights(folder / CONFIG)) is not None and is_file(folder / name)
    return False


def remove_saved(folder: Path) -> None:
    """Remove a folder of `save_pretrained`, but not what somebody else has put into it."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with suppress(FileExistsError):
        MODEL.clear(folder)
        if (name := _named_weights(folder / CONFIG)) is not None:
            for file in (name, *shards_of(folder / name)):
                _remove_weights(folder / file)
            (folder / CONFIG).unlink()
    with suppress(OSError):  # it is not empty
        folder.rmdir()


def _named_weights(path: Path) -> str | None:
    """The weights that a config.json names, if it is there and they can be those of `save_pretrained`.

    One that is damaged is put right by saving, if it is empty or has beside it weights that say themselves that they
    were saved so; then it is these.

    Raises:
        FileExistsError: It is somebody's own.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        saved = [file for file in path.parent.iterdir() if MODEL.owns(file.name) and _saved_as(file) == file.name]
        if saved or not path.stat().st_size:
            return max(saved, key=lambda file: file.stat().st_mtime).name if saved else None
        config = None
    own = config.get("zoo", config if "zoo_version" in config else None) if isinstance(config, dict) else None
    if not isinstance(own, dict):
        raise FileExistsError(
            f"{printable(path)} was not written by zoo and would be lost; choose another folder, or remove it"
        )
    name = own.get("weights")
    return name if isinstance(name, str) and MODEL.owns(name) else None


def _saved_as(path: Path) -> str | None:
    """The name under which a file of weights, or an index, was saved."""
    if path.name.endswith(INDEX):
        with suppress(ValueError, OSError, AttributeError):
            return read_json(path)["metadata"].get("saved_as")
        return None
    with suppress(SafetensorError, OSError), safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("saved_as")
    return None


def _remove_weights(path: Path) -> None:
    if path.is_file() and not path.is_symlink():
        path.unlink()


MODEL = Pointer(CONFIG, "model.safetensors", _named_weights, _remove_weights, shards_of)
