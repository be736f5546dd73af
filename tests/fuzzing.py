"""Hostile input at every door that takes some: `python tests/fuzzing.py [--inputs 5000] [--seed 0] [--door slots]`.

Each input is made from a valid one by a generator with a seed of its own, so that one that was found to be wrong comes
again by its number: `--door configs --first 1234 --inputs 1`. What must hold of every one:

- it is taken, and what it made can be run; or it is refused by ValueError, TypeError or FileNotFoundError whose message
  names what was given, is shorter than 2,000 characters and holds nothing that a terminal would obey;
- within two seconds, and 500 MB of memory beyond what was there.

The suite runs 40 a door (`test_fuzzing.py`), in one process; the script has a process for every hundred inputs, and
ends one that hangs.
"""

import argparse
import collections
import contextlib
import copy
import json
import math
import multiprocessing
import random
import re
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import zoo

ROOT = Path(__file__).parent.parent
SECONDS, MEGABYTES, LENGTH = 2.0, 500, 2000
REFUSALS = (ValueError, TypeError, FileNotFoundError)

LONG = "a" * 5000
ESCAPES = "\x1b]0;title\x07\x1b[31m"
VALUES = [
    *(None, True, False, 0, 1, 2, 3, 5, 7, -1, -3, 10**6, 10**12, 10**19, -(10**19), 10**30, 10**400),
    *(0.0, 0.3, 0.5, 1.0, 1.5, -0.5, 1e-300, 1e300, math.inf, -math.inf, math.nan),
    *("", "x", "none", "mlp", "avg", "1", "cpu", LONG, ESCAPES, "../..", "\u202eabc"),
    *([], [0], [1, 2], [-1, 3], [[1]], [None], ["x"], {}, {"name": "mlp"}, {"x": [1, {"y": 2}]}),
]
FITTING = [1, 2, 3, 4, 8, 0.1, 0.5, 1.0, 2.0, True, False, "gelu", "layernorm", [2, 3], [-1.0, 1.0]]
PIECES = [b"-", b"[", b"{", b"\x00", b"\xff", b"\x1b[0m", b'"', b"9" * 50, b"\t", b"&a *a"]
NUMBERS = [b"0", b"-1", b"9" * 30, b"9" * 5000, b"1e999", b"4294967296"]


class Input(NamedTuple):
    """What is tried: it says what it is, what an error must name, and how it is given."""

    what: str
    names: tuple[str, ...]
    give: Callable[[], Any]


# --- What is given to each door ---------------------------------------------------------------------------------------


def configs(rng: random.Random, folder: Path) -> Input:
    """A saved model whose config.json was changed: in its values, or in its text."""
    saved = _saved(rng.choice(["vit_test", "swin_test", "mixer_test", "convnext_test", "kan_test", "vmoe_test"]))
    place = folder / "model"
    place.mkdir()
    for path in saved.iterdir():
        (place / path.name).symlink_to(path)
    path, config = place / "config.json", json.loads((saved / "config.json").read_text())
    path.unlink()
    if rng.random() < 0.7:
        for _ in range(rng.choice((1, 1, 1, 2))):
            what = _change(rng, config)
        path.write_text(_dumped(config))
    else:
        damaged, what = _damaged(rng, (saved / "config.json").read_bytes())
        path.write_bytes(damaged)

    def give():
        model = zoo.create_model(f"local-dir:{place}")
        if sum(p.numel() for p in model.parameters()) < 10**6:
            _run(model)

    return Input(f"{saved.name}: {what}", ("config.json",), give)


def slots(rng: random.Random, folder: Path) -> Input:
    """A block by a text that is nearly right, or with options of any value."""
    kind = rng.choice(["token_mixer", "channel_mixer", "norm", "act", "stem", "downsample"])
    name = rng.choice(zoo.list_blocks(kind))
    options = {o: rng.choice(VALUES if rng.random() < 0.6 else FITTING) for o in _some_options(rng, kind, name)}
    slot: Any = {"name": name, **options}
    if rng.random() < 0.5:
        slot = f"{name}({', '.join(f'{k}={_text(v)}' for k, v in options.items())})"
        if rng.random() < 0.5:
            slot = _damaged(rng, slot.encode("utf-8", "surrogatepass"))[0].decode("utf-8", "surrogateescape")
    given: dict[str, Any] = {"grid": (4, 4), "img_size": (8, 8), "in_chans": 3, "in_dim": 4, "dim": 8}

    def give():
        needs = {k: v for k, v in given.items() if k in _parameters(kind, name)}
        block = zoo.create_block(kind, slot, **({"dim": 8} | needs))
        if block is not None and kind in ("token_mixer", "channel_mixer"):
            block(torch.zeros(2, 4, 4, 8), **({"grid": (4, 4)} if getattr(block, "needs_grid", False) else {}))

    return Input(f"{kind} {slot!r:.300}", (), give)


def weights(rng: random.Random, folder: Path) -> Input:
    """A file of weights with changed bytes, or with tensors of another kind."""
    name = rng.choice(["vit_test", "mixer_test"])
    source = load_file(next(_saved(name).glob("*.safetensors")))
    suffix = rng.choice([".safetensors", ".pth", ".pth", ".npz"])
    path = folder / f"weights{suffix}"
    what = "as it was"
    if rng.random() < 0.4:
        what = _change_state(rng, source)
    try:
        if suffix == ".safetensors":
            save_file({k: v.contiguous() for k, v in source.items() if isinstance(v, torch.Tensor)}, path)
        elif suffix == ".pth":
            old = rng.random() < 0.5
            torch.save(source, path, _use_new_zipfile_serialization=not old)
        else:
            np.savez(path, **{str(k): np.asarray(v) for k, v in source.items()})
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError):  # no file can hold it
        torch.save(load_file(next(_saved(name).glob("*.safetensors"))), path)
    if what == "as it was":
        damaged, what = _damaged(rng, path.read_bytes())
        path.write_bytes(damaged)
    give = lambda: zoo.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    return Input(f"{name}, {suffix}: {what}", (path.name,), give)


def recipes(rng: random.Random, folder: Path) -> Input:
    """A recipe of the project with a changed text, and an override of a key."""
    from zoo.training import load_recipe

    text = rng.choice(sorted((ROOT / "recipes").rglob("*.yaml"))).read_text("utf-8")
    path = folder / "recipe.yaml"
    overrides, what = [], "as it was"
    if rng.random() < 0.5:
        damaged, what = _damaged(rng, text.encode())
        path.write_bytes(damaged)
    else:
        lines = text.splitlines()
        i = rng.randrange(len(lines))
        lines[i] = re.sub(r":.*", lambda _: f": {_yaml(rng)}", lines[i], count=1)
        what = lines[i][:200]
        path.write_text("\n".join(lines) + "\n", "utf-8", errors="surrogatepass")
    if rng.random() < 0.3:
        key = rng.choice(
            ["train.duration", "train.batch_size", "optim.lr", "model.kwargs.depth", "a.b", "", "task", "=", "."]
        )
        overrides = [f"{key}={_yaml(rng)}"]
    give = lambda: load_recipe(path, overrides)
    return Input(f"{what} {overrides}", () if overrides else ("recipe.yaml",), give)


def pictures(rng: random.Random, folder: Path) -> Input:
    """A picture of any format with changed bytes."""
    from zoo.training.data.pictures import read_picture

    suffix, mode = rng.choice(
        [("png", "RGB"), ("png", "P"), ("png", "I;16"), ("jpg", "RGB"), ("jpg", "L"), ("tif", "RGB"), ("tif", "I;16")]
        + [("gif", "P"), ("bmp", "RGB"), ("webp", "RGB"), ("ppm", "RGB"), ("pgm", "L"), ("ico", "RGBA")]
    )
    path = folder / f"picture.{suffix}"
    size = rng.choice(((1, 1), (16, 16), (33, 7)))
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256) if mode == "I;16" else image.convert(mode)
    image.save(path)
    damaged, what = _damaged(rng, path.read_bytes())
    path.write_bytes(damaged)
    give = lambda: read_picture(str(path), rng.choice((1, 3)), deep=rng.random() < 0.5)
    return Input(f"{suffix} {mode}: {what}", (path.name,), give)


DOORS = {door.__name__: door for door in (configs, slots, weights, recipes, pictures)}


# --- How valid input is spoilt ----------------------------------------------------------------------------------------


def _damaged(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Bytes that are changed, cut out, doubled or put in, at one place or a few."""
    found, told = bytearray(data), []
    for _ in range(rng.choice((1, 1, 2, 8))):
        i, length = rng.randrange(len(found) + 1), rng.choice((1, 2, 8, 64))
        how = rng.choice(["flip", "cut", "double", "insert", "end", "numbers"])
        told.append(f"{how} {length} at {i}")
        if how == "flip":
            for j in range(i, min(i + length, len(found))):
                found[j] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del found[i : i + length]
        elif how == "double":
            found[i:i] = found[i : i + length] * rng.choice((1, 50))
        elif how == "insert":
            found[i:i] = (
                rng.choice([b"-", b"[", b"{", b"\x00", b"\xff", b"\x1b[0m", b'"', b"9" * 50, b"\t", b"&a *a"]) * length
            )
        elif how == "end":
            del found[i:]
        else:
            place = re.compile(rb"\d+").search(found, i)
            if place:
                found[place.start() : place.end()] = rng.choice(NUMBERS)
    return bytes(found), ", ".join(told)


def _change(rng: random.Random, config: dict[str, Any]) -> str:
    """Change one value at any depth of a configuration, or remove, rename or add a key."""
    place, path = config, []
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        path.append(key)
        if not (isinstance(place[key], (dict, list)) and place[key]) or rng.random() < 0.2:
            break
        place = place[key]
    how = rng.choice(["value", "value", "value", "value", "remove", "rename", "add"])
    if how == "value" or isinstance(place, list):
        place[key] = copy.deepcopy(rng.choice(VALUES))
        return f"{path} = {place[key]!r:.100}"
    if how == "remove":
        del place[key]
    elif how == "rename":
        place[rng.choice([f"{key}x", key.upper(), ESCAPES, LONG])] = place.pop(key)
    else:
        place[rng.choice(["new", "device", "dtype", "drop", "file", ESCAPES])] = copy.deepcopy(rng.choice(VALUES))
    return f"{how} {path}"


def _change_state(rng: random.Random, state: dict[Any, Any]) -> str:
    """Change one tensor of a state dict, or its key."""
    key = rng.choice(list(state))
    value = state[key]
    ways: dict[str, Callable[[], Any]] = {
        "remove": lambda: None,
        "another shape": lambda: value.new_zeros([n + 1 for n in value.shape] or [2]),
        "empty": lambda: value.new_zeros(0),
        "int": lambda: value.int(),
        "bool": lambda: value.bool(),
        "complex": lambda: value.to(torch.complex64),
        "too large": lambda: value.double() + 1e300,
        "sparse": lambda: value.to_sparse(),
        "meta": lambda: value.to("meta"),
        "nan": lambda: value * math.nan,
        "text": lambda: "text",
        "number": lambda: 3.0,
        "mapping": lambda: {"a": value},
        "half": lambda: value.half(),
    }
    how = rng.choice([*ways, "rename", "number key", "escapes"])
    if how in ways:
        state[key] = ways[how]()
        if state[key] is None:
            del state[key]
    else:
        state[{"rename": f"{key}x", "number key": 3, "escapes": f"{key}{ESCAPES}"}[how]] = state.pop(key)
    return f"{how} {key}"


def _dumped(config: Any) -> str:
    """As JSON, also whole numbers of more digits than Python likes to write."""
    if isinstance(config, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {_dumped(v)}" for k, v in config.items()) + "}"
    return "[" + ", ".join(map(_dumped, config)) + "]" if isinstance(config, list) else json.dumps(config)


def _text(value: Any) -> str:
    """As the text of an option, where infinity is a number."""
    return {"inf": "1e999", "-inf": "-1e999", "nan": "nan"}.get(repr(value), repr(value))


def _yaml(rng: random.Random) -> str:
    own = ["5ep", "10st", f"{10**15}st", "0ep", ".nan", ".inf", "&a [*a]", "!!binary x", "!!python/name:os.system", "|"]
    own += [
        "9" * 5000,
        "[" * 2000,
        "{a: {a: {a: 1}}}",
        "1:30",
        "0o17",
        "2020-01-01",
        "<<",
        "*x",
        "\t",
        "'",
        "\x00",
        "\ud800",
    ]
    return rng.choice([*own, *(_dumped(v) for v in VALUES)])


# --- What blocks and models need --------------------------------------------------------------------------------------

_SAVED: dict[str, Path] = {}


def _saved(name: str) -> Path:
    """The folder of a saved model, made once a process."""
    if name not in _SAVED:
        _SAVED[name] = Path(tempfile.mkdtemp()) / name
        zoo.save_pretrained(zoo.create_model(name), _SAVED[name])
    return _SAVED[name]


def _parameters(kind: str, name: str) -> list[str]:
    import inspect

    from zoo.slots.table import blocks_of

    return list(inspect.signature(blocks_of(kind)[name]).parameters) if name in blocks_of(kind) else []


def _some_options(rng: random.Random, kind: str, name: str) -> list[str]:
    from zoo.slots import options_of
    from zoo.slots.table import blocks_of

    known = options_of(blocks_of(kind)[name]) if name in blocks_of(kind) else []
    return rng.sample([*known, "drop", "x"], k=min(rng.choice((0, 1, 1, 1, 2)), len(known) + 2))


def _run(model: torch.nn.Module) -> None:
    """One forward pass on zeros."""
    size = getattr(model, "input_size", None) or model.pretrained_cfg["input_size"]
    with torch.no_grad():
        model.eval()(torch.zeros(1, *size))


# --- What must hold ---------------------------------------------------------------------------------------------------


def problem(door: str, number: int, seed: int = 0) -> tuple[str, str | None]:
    """What an input is, and what is wrong with the answer to it, None if nothing is."""
    rng = random.Random(f"{door} {seed} {number}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tried = DOORS[door](rng, Path(folder))
        _forget_peak()
        before, start, wrong = _peak(), time.perf_counter(), None
        try:
            tried.give()
        except REFUSALS as error:
            wrong = _of_type(error) or _of_message(str(error), tried.names)
            if wrong:
                wrong = f"{wrong}: {type(error).__name__}: {str(error)[:300]!r}"
        except Exception as error:
            wrong = f"ends in {type(error).__name__}: {str(error)[:300]!r}"
        seconds, megabytes = time.perf_counter() - start, (_peak() - before) / 2**20
    if wrong is None and seconds > SECONDS:
        wrong = f"takes {seconds:.1f} s"
    if wrong is None and megabytes > MEGABYTES:
        wrong = f"takes {megabytes:.0f} MB"
    return tried.what, wrong


def _of_type(error: Exception) -> str | None:
    """A library's own error says something about what the library does, and not about what was given."""
    kind = type(error)
    own = kind.__module__.startswith("zoo.") or kind in (*REFUSALS, FileExistsError)
    return None if own else "an internal exception"


def _of_message(message: str, names: tuple[str, ...]) -> str | None:
    if len(message) >= LENGTH:
        return f"a message of {len(message)} characters"
    if any(not c.isprintable() and c != "\n" for c in message):
        return "a message with control characters"
    if "no model can be built of it" in message:
        return "an internal exception, in other words"
    missing = [name for name in names if name not in message]
    return f"a message that does not name {missing}" if missing else None


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # Linux alone forgets
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The most memory this process had since that, in bytes."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- By script --------------------------------------------------------------------------------------------------------


def _many(door: str, numbers: range, seed: int, pipe) -> None:
    torch.set_num_threads(1)
    for number in numbers:
        pipe.send((number, "", "no end"))  # what is true of an input that never ends
        pipe.send((number, *problem(door, number, seed)))


def run(door: str, numbers: range, seed: int) -> dict[int, tuple[str, str]]:
    """The wrong answers by their numbers; every hundred inputs have a process, which ends with one that hangs."""
    wrong, first = {}, numbers.start
    context = multiprocessing.get_context("spawn")
    while first < numbers.stop:
        part = range(first, min(first + 100, numbers.stop))
        mine, its = context.Pipe(duplex=False)
        process = context.Process(target=_many, args=(door, part, seed, its))
        process.start()
        its.close()
        last: tuple[int, str, str | None] = (first, "", "no start")
        with contextlib.suppress(EOFError):
            while mine.poll(60):
                last = mine.recv()
                if last[2] not in (None, "no end"):
                    wrong[last[0]] = last[1:]
        process.kill()
        process.join()
        if last[2] in ("no end", "no start"):
            wrong[last[0]] = (last[1], f"hangs, or ended the process ({process.exitcode})")
        first = last[0] + 1
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000, help="in all, over the doors")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", choices=DOORS, action="append")
    args = parser.parse_args()
    doors = args.door or list(DOORS)
    total = collections.Counter()
    for door in doors:
        numbers = range(args.first, args.first + math.ceil(args.inputs / len(doors)))
        for number, (what, wrong) in sorted(run(door, numbers, args.seed).items()):
            total[door] += 1
            print(f"{door} {number}: {what}\n    {wrong}", flush=True)
        print(f"{door}: {total[door]} of {len(numbers)} wrong", flush=True)
    raise SystemExit(bool(total.total()))


if __name__ == "__main__":
    main()
