"""A model folder's config.json, which is input: read strictly, and named by whatever is refused of it."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.checks import printable, shown, unknown
from zoo.storage.files import is_file
from zoo.weights.pretrained import check_cfg

CONFIG = "config.json"

# What a config.json may hold, and the type of each.
KEYS = {"zoo_version": str, "architecture": str, "model_args": dict, "pretrained_cfg": dict, "weights": str}
OF_THE_PLACE = ("device", "dtype")  # arguments of a model that are the opener's to choose, never a file's

OF_VALUES = (RuntimeError, MemoryError, ArithmeticError)  # what values of a file may lead to, beside a refusal

# Bounds of any JSON file: bytes, levels of lists and mappings in each other, bits of a whole number, length of a name.
BYTES, LEVELS, BITS, NAME = 2**22, 32, 63, 200


def read_config(path: Path | str) -> dict[str, Any]:
    """Read and check a config.json: it is input like any other.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON mapping, or a key is unknown, missing, given twice or of the wrong type.
    """
    path = Path(path)
    config, where = read_json(path), printable(path)
    if not isinstance(config, Mapping):
        raise ValueError(
            f"{where} holds a {type(config).__name__}; it must be a mapping with the keys {', '.join(KEYS)}"
        )
    for key, kind in KEYS.items():
        if key not in config:
            raise ValueError(f"{where} has no key {key!r}; it must have {', '.join(KEYS)}")
        if not isinstance(config[key], kind):
            raise ValueError(f"{where}: {key} is {shown(config[key])}; it must be a {kind.__name__}")
    for key in config:
        if key not in KEYS:
            raise ValueError(f"{where}: " + unknown(f"key {shown(key)}", key, KEYS, "keys"))
    for key in OF_THE_PLACE:
        if key in config["model_args"]:
            raise ValueError(
                f"{where}: model_args: {key} is {shown(config['model_args'][key])}; where a model is put is no part of "
                f"a file, so remove it and give zoo.create_model(…, {key}=…)"
            )
    with naming(path):
        check_cfg(config["pretrained_cfg"], "pretrained_cfg")
    name = config["weights"]
    if not re.fullmatch(r"[\w.-]+\.safetensors", name, re.ASCII) or len(name) > NAME:
        raise ValueError(
            f"{where}: weights is {shown(name)}; it must be the name of a .safetensors file in the same folder, of at "
            f"most {NAME} letters, digits and _ . -"
        )
    return config


def read_json(path: Path | str) -> Any:
    """What a JSON file holds. Nothing in it may be given twice, be no finite number, or pass the bounds above.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such JSON.
    """
    path = Path(path)
    where = printable(path)
    try:
        if not is_file(path):
            raise FileNotFoundError(f"there is no file {where}; it may be a folder, or a link to nothing")
        with open(path, "rb") as file:
            data = file.read(BYTES + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"{where} cannot be read: {printable(error, 300)}") from error
    if len(data) > BYTES:
        raise ValueError(f"{where} has more than {BYTES} bytes, as no configuration of a model has")
    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_mapping,
            parse_int=_whole,
            parse_float=_Number,
            parse_constant=_Number,
        )
    except RecursionError:
        raise ValueError(f"{where} has lists and mappings nested too deep; {LEVELS} levels are the most") from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON ({printable(error, 300)}); save the model again") from error
    return _checked(content, where)


class _Number(float):
    """A number that was read, and how it was written."""

    def __new__(cls, text: str):
        number = super().__new__(cls, text)
        number.text = text
        return number


def _whole(text: str) -> int | _Number:
    """A whole number; one that no argument can be as a `_Number`, of which `_checked` says where it stands."""
    number = int(text) if len(text) <= 40 else 2**BITS
    return number if abs(number) < 2**BITS else _Number(text)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(twice)} is given twice; keep one of them")
    return mapping


def _checked(content: Any, where: str, place: str = "", level: int = 0) -> Any:
    """What was read with plain numbers.

    Raises:
        ValueError: A number cannot be, or something is nested too deep; the message says where it stands.
    """
    wrong = None
    if isinstance(content, _Number):
        if re.fullmatch(r"-?\d+", content.text):
            wrong = f"is a whole number of {len(content.text.lstrip('-'))} digits; {BITS} bits are the most"
        elif not math.isfinite(content):
            wrong = f"is {printable(content.text, 60)}; it must be a finite number"
        content = float(content)
    elif isinstance(content, (dict, list)) and level == LEVELS:
        wrong = f"is nested too deep; {LEVELS} levels of lists and mappings are the most"
    if wrong:
        raise ValueError(f"{where}: {printable(place or 'it', 200)} {wrong}")
    if isinstance(content, dict):
        inner = f"{place}: " if place else ""
        return {key: _checked(value, where, inner + key, level + 1) for key, value in content.items()}
    if isinstance(content, list):
        return [_checked(value, where, f"{place}[{i}]", level + 1) for i, value in enumerate(content)]
    return content


@contextmanager
def naming(
    path: Path | str, culprit: Callable[[str], str | None] | None = None, *, any_error: bool = False
) -> Iterator[None]:
    """Put the name of a file before whatever is refused of it, and of the key, if the message does not have them.

    Args:
        path: The file.
        culprit: From a message, what the file's key is that it is about, or None where that is said or cannot be told.
        any_error: Also what values make torch and Python raise, where they come of the file alone. What a mistake in
            zoo itself raises, such as an AttributeError, stays as it is.

    Raises:
        ValueError, TypeError, FileNotFoundError: What the body raised, with the name, and not too long.
    """
    try:
        yield
    except Exception as error:
        kinds = [kind for kind in (FileNotFoundError, TypeError, ValueError) if isinstance(error, kind)]
        if not kinds and not (any_error and isinstance(error, OF_VALUES)):
            raise
        message = f"{error}" if kinds else f"no model can be built of it ({type(error).__name__}: {error})"
        message, where = printable(message, 1600), printable(path)
        key = culprit(message) if culprit else None
        named = message if key is None else f"{key}: {message}"
        if where in message and key is None and message == str(error):
            raise
        raise (*kinds, ValueError)[0](named if where in message else f"{where}: {named}") from error
