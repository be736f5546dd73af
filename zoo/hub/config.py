"""A model folder's config.json, which is input: read strictly, and named by whatever is refused of it."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.checks import printable, shown, unknown
from zoo.storage.files import is_file
from zoo.weights.pretrained import check_cfg

CONFIG = "config.json"

# What is zoo's own in a config.json, and the type of each; in an older one it stands beside `pretrained_cfg`.
OWN = {"version": str, "architecture": str, "model_args": dict, "weights": str, "keys": str}
OLD = {"zoo_version": str, "architecture": str, "model_args": dict, "pretrained_cfg": dict, "weights": str}
LAYOUTS = ("timm", "zoo")  # whose keys the weights are under

# What else may stand there. timm reads and writes the first; transformers adds the others when it saves a model.
OF_TIMM = ("architecture", "num_classes", "num_features", "global_pool", "label_names", "label_descriptions")
OF_TIMM += ("model_args", "pretrained_cfg", "labels")
OF_TRANSFORMERS = ("architectures", "do_pooling", "dtype", "initializer_range", "model_type", "problem_type")
OF_TRANSFORMERS += ("torch_dtype", "transformers_version")

WEIGHTS = r"[\w.-]+\.safetensors"  # how a file of weights is called
OF_THE_PLACE = ("device", "dtype")  # arguments of a model that are the opener's to choose, never a file's

OF_VALUES = (RuntimeError, MemoryError, ArithmeticError)  # what values of a file may lead to, beside a refusal

# Bounds of any JSON file: bytes, levels of lists and mappings in each other, bits of a whole number, length of a name.
BYTES, LEVELS, BITS, NAME = 2**22, 32, 63, 200


def read_config(path: Path | str) -> dict[str, Any]:
    """Read and check a config.json: it is input like any other.

    Returns:
        What zoo builds the model of: ``version``, ``architecture``, ``model_args``, ``pretrained_cfg``, ``weights`` and
        ``keys``, whichever of its forms the file has.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON mapping, or a key is unknown, missing, given twice or of the wrong type.
    """
    path = Path(path)
    config, where = read_json(path), printable(path)
    if not isinstance(config, Mapping):
        raise ValueError(
            f"{where} holds a {type(config).__name__}; it must be a mapping with the keys pretrained_cfg, zoo"
        )
    if "zoo_version" in config:  # as zoo wrote it up to 0.1
        _check_keys(config, OLD, where)
        own = {"version": config["zoo_version"], "keys": "zoo", **{key: config[key] for key in OLD if key in OWN}}
    else:
        _check_keys(config, {"zoo": dict, "pretrained_cfg": dict}, where, beside=(*OF_TIMM, *OF_TRANSFORMERS))
        own = dict(config["zoo"])
        _check_keys(own, OWN, f"{where}: zoo")
    beside = {key: config[key] for key in ("num_classes", "label_names", "label_descriptions") if key in config}
    cfg = {**config["pretrained_cfg"], **beside}
    for key in OF_THE_PLACE:
        if key in own["model_args"]:
            raise ValueError(
                f"{where}: model_args: {key} is {shown(own['model_args'][key])}; where a model is put is no part of "
                f"a file, so remove it and give zoo.create_model(…, {key}=…)"
            )
    with naming(path):
        check_cfg(config["pretrained_cfg"], "pretrained_cfg")
        check_cfg(cfg, "beside its pretrained_cfg")
    if (inner := config["pretrained_cfg"].get("num_classes", cfg.get("num_classes"))) != cfg.get("num_classes"):
        raise ValueError(
            f"{where}: num_classes is {cfg['num_classes']}, and pretrained_cfg: num_classes is {inner}; write the "
            "number that the weights have into both"
        )
    name = own["weights"]
    if not re.fullmatch(rf"{WEIGHTS}(\.index\.json)?", name, re.ASCII) or len(name) > NAME:
        raise ValueError(
            f"{where}: weights is {shown(name)}; it must be the name of a .safetensors file in the same folder, or of "
            f"its index, of at most {NAME} letters, digits and _ . -"
        )
    if (keys := own["keys"]) not in LAYOUTS:
        raise ValueError(f"{where}: zoo: " + unknown(f"keys {shown(keys)}", keys, LAYOUTS, "layouts"))
    return {**own, "pretrained_cfg": cfg}


def _check_keys(mapping: Mapping[str, Any], kinds: Mapping[str, type], where: str, beside: Sequence[str] = ()) -> None:
    """Check that a mapping has these keys, of these types, and none but those `beside` them.

    Raises:
        ValueError: It has not.
    """
    for key, kind in kinds.items():
        if key not in mapping:
            raise ValueError(f"{where} has no key {key!r}; it must have {', '.join(kinds)}")
        if not isinstance(mapping[key], kind):
            raise ValueError(f"{where}: {key} is {shown(mapping[key])}; it must be a {kind.__name__}")
    for key in mapping:
        if key not in kinds and key not in beside:
            raise ValueError(f"{where}: " + unknown(f"key {shown(key)}", key, dict.fromkeys([*kinds, *beside]), "keys"))


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
