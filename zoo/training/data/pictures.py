"""Files of pictures: which there are in a folder of classes, and what is in one.

timm's own reader replaces a picture that cannot be read by the next one, clips 16 bits to 8, leaves out what lies
deeper than a class folder, and takes JPEG and PNG alone. Here each of these is either read right, or an error or a
warning with the name of the file.
"""

import contextlib
import errno
import heapq
import io
import os
import stat
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data import get_img_extensions
from timm.utils import natural_key
from torch import Tensor

from zoo.checks import printable, some

# By suffix, whatever its case; `timm.data.add_img_extensions` adds to them.
_NAMES = "apng avif bmp dib gif j2k jfif jp2 jpe jpeg jpg pbm pfm pgm png pnm ppm tga tif tiff webp"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 274, 258, 262, 0  # EXIF's and TIFF's numbers for them
# What is wrong with the machine or the way to its disk, and may be right at the next picture.
OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT}
MACHINE = "the picture may be good; run with fewer data.workers, or see what else the machine does"


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; those that begin with a dot are tools' own, and no classes."""
    return sorted(path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))


def find_pictures(folder: Path, classes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The pictures `folder/<class>/**`, in natural order of their paths, each with the number of its class.

    What begins with a dot is passed over. Other files that are no pictures by their suffix, or that lie in no class
    folder, are left out with a warning that counts them. Of a class, every folder is read once, by whatever links lead
    to it, and none that holds the class: a link may well lead back to where it lies.
    """
    suffixes = SUFFIXES | get_img_extensions(as_set=True)
    samples, left_out = [], Counter()
    for entry in os.scandir(folder):
        if not _is_folder(entry) and not entry.name.startswith("."):
            left_out["in no class folder"] += 1
    for name, label in classes.items():
        for entry in _files(folder / name, left_out):
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in suffixes:
                samples.append((entry.path, label))
            else:
                left_out[suffix or "without suffix"] += 1
    if left_out:
        listed = some(f"{count} {kind}" for kind, count in left_out.most_common())
        warnings.warn(f"{printable(folder)}: files that are left out, by suffix: {listed}", stacklevel=2)
    return sorted(samples, key=lambda sample: natural_key(sample[0]))


def _files(folder: Path, left_out: Counter) -> Iterator[os.DirEntry]:
    """The files in and below a class folder, also those behind links; links that lead nowhere new are counted."""
    if not folder.is_dir():
        return
    places = (folder.parent, *folder.parent.resolve().parents, *folder.resolve().parents)
    seen = {_identity(place) for place in places}
    folders, links = [str(folder)], []
    while folders or links:
        here = folders.pop() if folders else heapq.heappop(links)  # links last: what counts is the folder itself
        if (identity := _identity(here)) in seen:
            left_out["links to a folder that is met elsewhere"] += 1
            continue
        seen.add(identity)
        for entry in os.scandir(here):
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                yield entry
            elif entry.is_symlink():
                heapq.heappush(links, entry.path)
            else:
                folders.append(entry.path)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str | os.PathLike) -> tuple[int, int]:
    """What a folder has in common with itself under another name, and with no other."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def check_links(
    parts: Mapping[str, list[tuple[str, Hashable]]], shared_as: str = "links to those of {}, or the other way round"
) -> None:
    """Follow links: one file is of one class, and is seen either in training or in evaluation.

    Args:
        parts: The path and the class, or classes, of each picture of a part.
        shared_as: What pictures of one part are of another, in words.

    Raises:
        ValueError: a file has two classes.
    """
    real_folders: dict[str, str] = {}
    seen: dict[str, tuple[str, str, Hashable]] = {}  # the file itself -> part, path and class where it was met first
    shared: Counter = Counter()
    for part, samples in parts.items():
        for path, label in samples:
            folder, name = os.path.split(path)
            if folder not in real_folders:
                real_folders[folder] = os.path.realpath(folder)
            real = os.path.realpath(path) if os.path.islink(path) else os.path.join(real_folders[folder], name)
            first_part, first_path, first_label = seen.setdefault(real, (part, path, label))
            if label != first_label:
                paths = f"{printable(first_path, 800)} and {printable(path, 800)}"
                raise ValueError(f"{paths} are one file under two classes: remove one of them")
            if part != first_part:
                shared[first_part, part] += 1
    for (first_part, part), count in shared.items():
        warnings.warn(
            f"{count} pictures of {part!r} are {shared_as.format(repr(first_part))}: what is measured on {part!r} is "
            "not of unseen pictures",
            stacklevel=2,
        )


def read_picture(source: str | bytes, in_chans: int, *, deep: bool, name: str | None = None) -> Image.Image | Tensor:
    """A picture as grey (`in_chans` 1) or RGB (3), the way up that its EXIF says.

    Each sample is scaled from the range of its type: 16 bits from 0 to 65535, 12 bits to 4095, a single bit to 1. Mode
    I, in which PIL hands on PGM files and those of 32 bits, is held to be of 16 bits; floating point must be within
    [0, 1]. Alpha is dropped. Of colours of 16 bits PIL reads the upper 8. A picture has at most
    ``PIL.Image.MAX_IMAGE_PIXELS``, of which PIL itself only warns.

    Args:
        source: The path of a file, or the bytes of one.
        in_chans: Channels wanted.
        deep: Whether a grey picture of more than 8 bits keeps them, as a float32 tensor ``(in_chans, H, W)`` in [0, 1];
            otherwise it is rounded to 8 bits, as what most augmentations of PIL need.
        name: What an error calls it; None: its path.

    Raises:
        ValueError: the file cannot be read whole, is too large, or has values out of range; the message names it.
        OSError, MemoryError: the machine has too little of something, which says nothing about the picture.
    """
    name = printable(source) if name is None else name
    try:
        with Image.open(openable(source)) as image:
            check_size(image)
            image.load()
            with contextlib.suppress(Exception):  # EXIF that cannot be read says nothing about the way up
                image = ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image
            values = _deep_values(image)
            if values is None:
                return _eight_bits(image, in_chans)
    except MemoryError as error:
        raise MemoryError(f"there is no memory to read {name}: {MACHINE}") from error
    except Exception as error:  # of many kinds, by format
        if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
            raise OSError(
                error.errno, f"{name} could not be read now ({os.strerror(error.errno)}): {MACHINE}"
            ) from error
        # PIL's own words name the place in memory of bytes.
        problem = (
            "PIL cannot identify its format" if isinstance(error, UnidentifiedImageError) else printable(error, 300)
        )
        raise ValueError(f"{name} cannot be read as a picture ({problem}): repair it or remove it") from error
    if deep:
        return torch.from_numpy(values).expand(in_chans, *values.shape)
    return _eight_bits(Image.fromarray(np.uint8(values * 255 + 0.5)), in_chans)


def openable(source: str | bytes) -> str | io.BytesIO:
    """What PIL opens of a path or of bytes.

    Raises:
        ValueError: The path is of no file; reading a pipe might never end.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not stat.S_ISREG(os.stat(source).st_mode):
        raise ValueError("it is no file")
    return source


def check_size(image: Image.Image) -> None:
    """Check that a picture, which takes a byte or more a pixel once it is unpacked, is no larger than PIL's bound."""
    width, height = image.size
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and width * height > most:
        raise ValueError(f"it has {width:,} x {height:,} pixels; at most {most:,} are read: make it smaller")


def _eight_bits(image: Image.Image, in_chans: int) -> Image.Image:
    """By PIL's conversions, which for some modes take a way round."""
    # PIL warns of palettes with transparent colours unless they become RGBA, and makes no grey of LAB.
    if between := {"P": "RGBA", "PA": "RGBA", "LAB": "RGB"}.get(image.mode):
        image = image.convert(between)
    return image.convert("L" if in_chans == 1 else "RGB")


def _deep_values(image: Image.Image) -> np.ndarray | None:
    """A grey picture of more than 8 bits as float32 in [0, 1]; None for any other."""
    if not image.mode.startswith(("I", "F")):
        return None
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0] if image.mode.startswith("I;") else 16
    largest = 1 if image.mode == "F" else 2**bits - 1
    values = np.asarray(image).astype(np.float32)
    least, most = values.min(), values.max()
    if not (least >= 0 and most <= largest):  # also where one is not a number
        raise ValueError(
            f"its values go from {least:g} to {most:g}, where 0 to {largest} is expected of PIL's mode {image.mode}"
        )
    values /= largest
    return 1 - values if image.mode.startswith("I;") and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else values
