"""Fetching weights: from the Hub or an address, kept by the whole address, checked, and fetched again if damaged."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from torch import Tensor

from zoo.checks import printable
from zoo.weights.converted import read_converted
from zoo.weights.files import read_state_dict, take_state_dict
from zoo.weights.repository import WAYS_OUT, Download, Repository, reason_of
from zoo.weights.web import download_url

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # what the Hub's repositories of weights have, in this order
ON_HUB = r"https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/([^?#]+)"
# What is no single file of weights, and is left to its user and `zoo convert`.
SITES = r"(?:drive\.google|pan\.baidu)\..+"
ARCHIVES = r"[^?#]+(?:\.zip|\.tgz|\.gz|(?<!\.pth)\.tar)(?:[?#].*)?"
CONVERTED = rf"gs://.+|https?://(?:{SITES}|{ARCHIVES})"


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
    SHA-256 that its name (``name-1a2b3c4d.pth``) or the address's end (``#sha256=…``) tells. A file of the Hub is kept
    by the Hub's client, and compared with the hash that the Hub has. A kept file that is damaged is fetched once more.
    What is no safetensors is kept as such too, and read from there.

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
    elif not is_fetched(cfg["url"]):
        raise ValueError(
            f"the weights of {model_name} are at {printable(origin, 300)}, which is no single file of weights: "
            f"download it, and `zoo convert FILE… --as {model_name} --output FOLDER` makes a folder of it that "
            "zoo.create_model opens"
        )
    elif found := re.fullmatch(ON_HUB, cfg["url"]):
        download = partial(_from_hub, f"{found[1]}@{unquote(found[2])}", unquote(found[3]), cache_dir)
    else:
        download = partial(download_url, cfg["url"], cache_dir)
    return _read(download, model_name, origin, cache_dir)


def is_fetched(place: str) -> bool:
    """Whether ``pretrained=True`` fetches the weights of a published place; the others are for ``zoo convert``.

    Example:
        >>> is_fetched("hf-hub:timm/mixer_b16_224.goog_in21k"), is_fetched("https://a.org/weights.zip")
        (True, False)

    Args:
        place: As in `zoo.family.Published`.
    """
    return not re.fullmatch(CONVERTED, place)


def _read(
    download: Callable[..., Download], model_name: str, origin: str, cache_dir: Path | str | None
) -> dict[str, Tensor]:
    """Read what was downloaded; if a kept file is damaged, fetch it once more.

    Args:
        download: Fetches the file if it is not there, or with ``again`` in any case.
        model_name, origin: For error messages.
        cache_dir: Where downloads are kept.
    """
    file = _fetch(download, False, model_name, origin)
    try:
        return _content(file, origin, cache_dir)
    except ValueError as error:
        damaged, remedy = error, f"remove {printable(file.path)} and try again"
    if file.kept:
        try:
            return _content(_fetch(download, True, model_name, origin), origin, cache_dir)
        except ValueError as error:
            raise ValueError(
                f"{damaged}. It was kept of {printable(origin, 300)}, and fetching it again did not help "
                f"({printable(error, 600)}); {remedy}"
            ) from error
    raise ValueError(f"{damaged}. It was fetched from {printable(origin, 300)} just now; {remedy}") from damaged


def _content(file: Download, origin: str, cache_dir: Path | str | None) -> dict[str, Tensor]:
    """The tensors in a file that was downloaded.

    Raises:
        ValueError: It is damaged.
    """
    if file.kept and (damage := file.damage()):
        raise ValueError(damage)
    return read_converted(file.path, origin, cache_dir)


def _fetch(download: Callable[..., Download], again: bool, model_name: str, origin: str) -> Download:
    """Whatever the network or the Hub's client raises becomes a ValueError that names the model and the origin."""
    try:
        return download(again=again)
    except Exception as error:
        told = f"the weights of {model_name} could not be fetched"
        if not isinstance(error, ValueError):
            raise ValueError(f"{told} from {printable(origin)} ({reason_of(error)}). {WAYS_OUT}") from error
        where = "" if origin in str(error) else f" from {printable(origin)}"
        raise ValueError(f"{told}{where}: {printable(error, 1200)}") from error


def _from_hub(hub_id: str, filename: str | None, cache_dir: Path | str | None, again: bool) -> Download:
    """A file of a repository on the Hub, ``owner/name`` or ``owner/name@revision``, or its twin as safetensors."""
    names = (
        dict.fromkeys((str(PurePosixPath(filename).with_suffix(".safetensors")), filename)) if filename else HUB_FILES
    )
    return Repository.of(hub_id, cache_dir).download(*names, again=again)
