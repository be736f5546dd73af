"""A file at an address, kept by the whole address, written when it is whole, and compared with the hash it tells."""

import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import torch
from tqdm import tqdm

from zoo.storage.files import replacing
from zoo.weights.repository import Download, marked

TIMEOUT = 30  # seconds that a server may be silent
CHUNK = 2**20
NAMED_HASH = r"-([0-9a-f]{8,64})\.\w+$"  # the beginning of a file's SHA-256 in its name, as torch and timm write it


def download_url(url: str, cache_dir: Path | str | None = None, again: bool = False) -> Download:
    """The file of an address, kept under its name with a mark of the whole address.

    torch has such a function, which waits for ever, and does not notice that a server ended too soon.

    Args:
        url: The address; a hash may stand in its name (``name-1a2b3c4d.pth``) or at its end (``#sha256=…``).
        cache_dir: Where it is kept; torch's folder by default.
        again: Fetch it although it is kept.

    Raises:
        OSError: It cannot be had, or written. Nothing of it is kept.
        ValueError: It has another hash.
    """
    parts = urlsplit(url)
    address, name = parts._replace(fragment="").geturl(), Path(unquote(parts.path)).name
    folder = Path(cache_dir) if cache_dir else Path(torch.hub.get_dir()) / "checkpoints"
    file = Download(path := folder / marked(name, address), True, _known_hash(name, parts.fragment))
    if path.is_file() and not again:
        return file
    with replacing(path) as new:
        _copy(address, new)
        if damage := replace(file, path=new).damage():
            raise ValueError(f"invalid hash value: {damage}")
    return replace(file, kept=False)


def _copy(address: str, path: Path) -> None:
    """Write what an address has into a file, with a bar.

    Raises:
        OSError: It cannot be had, or ended too soon.
    """
    request = Request(address, headers={"User-Agent": "zoo"})
    with closing(urlopen(request, timeout=TIMEOUT)) as answer, open(path, "wb") as file:
        said = answer.headers.get("Content-Length")
        size = int(said) if said is not None and said.isdecimal() else None
        with tqdm(total=size, unit="B", unit_scale=True, desc=path.name[-40:], leave=False) as bar:
            while data := answer.read(CHUNK):
                bar.update(file.write(data))
            if size is not None and file.tell() != size:
                raise OSError(f"the server sent {file.tell()} of {size} bytes; try again")


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
