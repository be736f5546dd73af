"""Fetching weights: from the Hub or an address, kept by the whole address, checked, and fetched again if damaged."""

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor

from zoo.checks import printable
from zoo.storage.files import sha256_of
from zoo.weights.files import read_state_dict, take_state_dict

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # what the Hub's repositories of weights have, in this order
NAMED_HASH = r"-([0-9a-f]{8,64})\.\w+$"  # the beginning of a file's SHA-256 in its name, as torch and timm write it


def origin_of(cfg: Mapping, model_name: str) -> str:
    """What errors call the weights that a pretrained configuration points to, which may be of any of the kinds below.

    Raises:
        ValueError: It points to none.
    """
    if cfg.get("state_dict"):
        return "the given state dict"
    if cfg.get("file"):
        return str(cfg["file"])
    if cfg.get("hf_hub_id"):
        return f"hf-hub:{cfg['hf_hub_id']}"
    if cfg.get("url"):
        return str(cfg["url"])
    raise ValueError(
        f"no weights are published for {model_name}; create it with pretrained=False, or name your own file by "
        'pretrained_cfg_overlay={"file": "weights.safetensors"}'
    )


def fetch_state_dict(cfg: Mapping, model_name: str, cache_dir: Path | str | None = None) -> dict[str, Tensor]:
    """The tensors that a pretrained configuration points to.

    A file from an address is kept by the whole address, so that two of one name stay apart, and compared with the
    SHA-256 that its name (``name-1a2b3c4d.pth``) or the address's end (``#sha256=…``) tells. A kept file that is
    damaged is fetched once more.

    Args:
        cfg: As timm's: ``state_dict``, ``file``, ``hf_hub_id`` (with ``hf_hub_filename``) or ``url``, in this order.
        model_name: For error messages.
        cache_dir: Where downloads are kept; the Hub's and torch's own folders by default.

    Raises:
        FileNotFoundError: The file that is named is not there.
        ValueError: Nothing is published for the model, it could not be fetched, or what was fetched is damaged.
    """
    origin = origin_of(cfg, model_name)
    if cfg.get("state_dict"):
        return take_state_dict(cfg["state_dict"], origin)
    if cfg.get("file"):
        return read_state_dict(cfg["file"])
    if hub_id := cfg.get("hf_hub_id"):
        download = partial(_from_hub, hub_id, cfg.get("hf_hub_filename"), cache_dir)
    else:
        download = partial(_from_url, cfg["url"], cache_dir)
    return _read(download, model_name, origin)


@dataclass(frozen=True)
class _Download:
    """A file that was fetched.

    Args:
        path: Where it is.
        kept: Whether it was there before.
        digest: The beginning of its SHA-256, where that is known.
    """

    path: Path
    kept: bool
    digest: str | None = None

    def read(self) -> dict[str, Tensor]:
        """The tensors in it.

        Raises:
            ValueError: It is damaged.
        """
        if self.digest and not (digest := sha256_of(self.path)).startswith(self.digest):
            raise ValueError(
                f"{printable(self.path)} has a SHA-256 that begins with {digest[: len(self.digest)]}, and it should be "
                f"{self.digest}"
            )
        return read_state_dict(self.path)


def _read(download: Callable[[bool], _Download], model_name: str, origin: str) -> dict[str, Tensor]:
    """Read what was downloaded; if a kept file is damaged, fetch it once more.

    Args:
        download: Fetches the file if it is not there, or with True in any case.
        model_name, origin: For error messages.
    """
    file = _fetch(download, False, model_name, origin)
    try:
        return file.read()
    except ValueError as error:
        damaged, remedy = error, f"remove {printable(file.path)} and try again"
    if file.kept:
        try:
            return _fetch(download, True, model_name, origin).read()
        except ValueError as error:
            raise ValueError(
                f"{damaged}. It was kept of {printable(origin, 300)}, and fetching it again did not help "
                f"({printable(error, 600)}); {remedy}"
            ) from error
    raise ValueError(f"{damaged}. It was fetched from {printable(origin, 300)} just now; {remedy}") from damaged


def _fetch(download: Callable[[bool], _Download], again: bool, model_name: str, origin: str) -> _Download:
    """Whatever the network or the Hub's client raises becomes a ValueError that names the model and the origin."""
    try:
        return download(again)
    except Exception as error:
        raise ValueError(
            f"the weights of {model_name} could not be fetched from {printable(origin)} ({type(error).__name__}: "
            f'{printable(error, 600)}). Without a network, name a file by pretrained_cfg_overlay={{"file": '
            '"weights.safetensors"}'
        ) from error


def _from_hub(hub_id: str, filename: str | None, cache_dir: Path | str | None, again: bool) -> _Download:
    """A file of a repository on the Hub, ``owner/name`` or ``owner/name@revision``; the Hub's client keeps it."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache  # slow to import
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = hub_id.partition("@")
    where = {"repo_id": repository, "revision": revision or None, "cache_dir": cache_dir}
    *safer, last = [str(Path(filename).with_suffix(".safetensors")), filename] if filename else HUB_FILES
    for file in [name for name in safer if name != last]:
        with suppress(EntryNotFoundError):
            kept = isinstance(try_to_load_from_cache(filename=file, **where), str)
            return _Download(Path(hf_hub_download(filename=file, force_download=again, **where)), kept)
    kept = isinstance(try_to_load_from_cache(filename=last, **where), str)
    return _Download(Path(hf_hub_download(filename=last, force_download=again, **where)), kept)


def _from_url(url: str, cache_dir: Path | str | None, again: bool) -> _Download:
    """The file of an address, kept under its name with a mark of the whole address."""
    parts = urlsplit(url)
    address = parts._replace(fragment="").geturl()
    name = re.sub(r"[^\w.-]", "_", Path(unquote(parts.path)).name, flags=re.ASCII).lstrip(".")[-100:] or "weights.pth"
    stem, dot, kind = name.rpartition(".")
    mark = hashlib.sha256(address.encode()).hexdigest()[:16]
    folder = Path(cache_dir) if cache_dir else Path(torch.hub.get_dir()) / "checkpoints"
    file = _Download(
        folder / (f"{stem}.{mark}.{kind}" if dot else f"{name}.{mark}"), True, _known_hash(name, parts.fragment)
    )
    if file.path.is_file() and not again:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    # Written beside its place, and moved there when it is whole and has the hash.
    torch.hub.download_url_to_file(address, str(file.path), file.digest, progress=False)
    return replace(file, kept=False)


def _known_hash(name: str, fragment: str) -> str | None:
    """The beginning of the SHA-256 that a file should have, if its name or the end of its address tells it.

    Example:
        >>> _known_hash("a-0123abcd.pth", ""), _known_hash("a-00500000.pth", ""), _known_hash("a.pth", "sha256=ab12")
        ('0123abcd', None, 'ab12')
    """
    if in_address := re.fullmatch(r"sha256=([0-9a-f]{4,64})", fragment):
        return in_address[1]
    in_name = re.search(NAMED_HASH, name)
    return in_name[1] if in_name and not in_name[1].isdecimal() else None  # a date or the number of a step is no hash
