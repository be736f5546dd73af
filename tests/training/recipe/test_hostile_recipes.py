"""No text ends in an exception of the parser's, or in one of Python's limits: a recipe is read, or refused by name."""

import os
import random
import re
import time

import pytest
from conftest import ROOT

from zoo.training import RecipeError, Trainer, dump_recipe, load_recipe
from zoo.training.recipe.reading import CHARACTERS, DEPTH, NODES
from zoo.training.recipe.recipe import ELSEWHERE, Model

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TEXT = """\
task: {name: classify}
model: {name: mixer_test, kwargs: {img_size: 8, patch_size: 4, in_chans: 1, num_classes: 10, depth: 1}}
data: {name: digits}
train: {duration: 6st, batch_size: 64, eval_every: 6st, checkpoint_every: 2st}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: cosine}
expect: {metric: test/top1, status: untested}
"""


def depth(value):
    """The recipe with another value of an argument of the model, on line 2."""
    return TEXT.replace("depth: 1", f"depth: {value}")


def note(value):
    """The recipe with a note, on line 7."""
    return TEXT.replace("untested", f"untested, note: {value}")


LAUGHS = "{a: &a [1,1,1,1,1,1,1,1]" + "".join(
    f", {one}: &{one} [{','.join([f'*{before}'] * 8)}]" for before, one in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN = "{a0: &a0 [1]" + "".join(f", a{i}: &a{i} [*a{i - 1}]" for i in range(1, 500)) + "}"

REFUSED = {  # of each kind of text the line that is named, and what is said
    "billion laughs": (depth(LAUGHS + "}"), 2, f"more than {NODES:,} keys and values, every alias written out"),
    "a chain of aliases": (depth(CHAIN), 2, f"nested more than {DEPTH} deep"),
    "a list within itself": (depth("&a [*a]"), 2, "the alias lies within what it stands for"),
    "a section within itself": (depth("&a {b: {c: *a}}"), 2, "the alias lies within what it stands for"),
    "the whole within itself": ("&a\n" + TEXT + "more: *a\n", 9, "the alias lies within what it stands for"),
    "no anchor": (depth("*a"), 2, "not valid YAML: found undefined alias 'a'"),
    "an anchor twice": (depth("[&a 1, &a 2]"), 2, "not valid YAML: found duplicate anchor 'a'"),
    "an object": (depth("!!python/object/apply:os.system [ls]"), 2, "model.kwargs.depth: the tag .*os.system' is none"),
    "a section as object": (TEXT.replace("data: {", "data: !!python/object:x.y {"), 3, "data: the tag .* remove it"),
    "binary": (note("!!binary aGk="), 7, r"expect.note: 'aGk=' \(binary\) is no value of a recipe"),
    "timestamp": (note("!!timestamp x"), 7, r"expect.note: 'x' \(timestamp\) is no value of a recipe"),
    "a date": (note("2026-01-01"), 7, "if it is a text, put it into quotes"),
    "no date": (depth("2026-99-99"), 2, "model.kwargs.depth: '2026-99-99' .* put it into quotes"),
    "set": (depth("!!set {a, b}"), 2, "the tag .*:set' is none that a recipe knows"),
    "a list of pairs": (depth("!!omap [a: 1]"), 2, "the tag .*:omap' is none"),
    "a list that is a map": (depth("!!map [1]"), 2, "the tag .*:map' is none"),
    "an own tag": (depth("!mine 1"), 2, r"'1' \(!mine\) is no value of a recipe"),
    "an own tag without a value": (depth("!mine"), 2, r"'' \(!mine\) is no value|not valid YAML"),
    "a tag of no prefix": (depth("!e!mine 1"), 2, "not valid YAML: .*undefined tag handle '!e!'"),
    "int abc": (TEXT.replace("64", "!!int abc"), 4, "train.batch_size: 'abc' is no whole number"),
    "int of nothing": (TEXT.replace("64", "!!int ''"), 4, "train.batch_size: '' is no whole number"),
    "int 0x": (depth("!!int 0x"), 2, "'0x' is no whole number"),
    "float abc": (TEXT.replace("1e-3", "!!float abc"), 5, "optim.lr: 'abc' is no number"),
    "float of nothing": (TEXT.replace("1e-3", "!!float ''"), 5, "optim.lr: '' is no number"),
    "bool abc": (depth("!!bool abc"), 2, "'abc' is no truth value"),
    "null abc": (depth("!!null abc"), 2, "'abc' has the tag of null"),
    "5,000 digits": (
        TEXT.replace("64", "9" * 5000),
        4,
        "train.batch_size: '99.*' is no whole number of at most 64 bits",
    ),
    "4,000 digits": (depth("9" * 4000), 2, "model.kwargs.depth: 99.* is too large: a whole number has at most 64 bits"),
    "20,000 bits": (TEXT.replace("64", "0x" + "f" * 5000), 4, "train.batch_size: a whole number of 20000 bits is too"),
    "duration of 5,000 digits": (TEXT.replace("6st", "9" * 5000 + "st"), 4, "train.duration: expected a duration"),
    "1e999": (TEXT.replace("1e-3", "1e999"), 5, "optim.lr: expected a finite number, got '1e999'"),
    "infinite argument": (depth("-.inf"), 2, "model.kwargs.depth: expected a finite number"),
    "octal": (TEXT.replace("64", "064"), 4, "train.batch_size: '064' is a number in base 8: write it in base 10"),
    "sexagesimal": (depth("1:30"), 2, "model.kwargs.depth: '1:30' is a number in base 60"),
    "sexagesimal fraction": (note("1:30.5"), 7, "expect.note: '1:30.5' is a number in base 60.* or a text in quotes"),
    "a number for a text": (note("5"), 7, r"expect.note: expected a text, got '5' \(int\): put it into quotes"),
    "=": (note("="), 7, r"expect.note: '=' \(value\) is no value of a recipe"),
    "merge": (TEXT.replace("data: {", "data: {<<: {size: 9}, "), 3, "data: `<<` takes over keys from elsewhere"),
    "merge in an argument": (depth("{<<: [{a: 1}]}"), 2, "model.kwargs.depth: `<<` takes over keys"),
    "two documents": (TEXT + "---\n" + TEXT, 8, "not valid YAML: expected a single document"),
    "YAML 9": ("%YAML 9.9\n---\n" + TEXT, 1, "not valid YAML: found incompatible YAML document"),
    "YAML of 5,000 digits": ("%YAML 1." + "9" * 5000 + "\n---\n" + TEXT, 1, "not valid YAML: a number that is out of"),
    "null alone": ("---\n", 2, "expected a section of `key: value` lines"),
    "a list alone": ("[1, 2]", 1, "expected a section of `key: value` lines, got a list"),
    "tab": (
        TEXT.replace("task: {name", "task:\n\tname: classify\nmore: {name"),
        2,
        r"'\\t' that cannot .* indent by spaces",
    ),
    "10,000 brackets": (depth("[" * 10_000 + "]" * 10_000), 2, f"nested more than {DEPTH} deep"),
    "10,000 open brackets": (TEXT + "x: " + "[" * 10_000, 8, f"nested more than {DEPTH} deep"),
    "10,000 dashes": (TEXT + "x:\n" + "- " * 10_000, 9, f"nested more than {DEPTH} deep"),
    "10,000 braces": (depth("{a: " * 10_000), 2, f"nested more than {DEPTH} deep"),
    "20,000 keys": (TEXT + "".join(f"k{i}: 1\n" for i in range(20_000)), 2482, f"more than {NODES:,} keys and values"),
    "NUL": (TEXT + "\0", 8, r"not valid YAML: the character '\\x00': remove it"),
    "escape sequence": (TEXT + "\x1b[31m: 1", 8, r"not valid YAML: the character '\\x1b'"),
    "an escaped NUL": (note('"a\\0"'), 7, r"expect.note: the text .* has the character '\\x00': remove it"),
    "a surrogate": (note('"\\ud800"'), 7, r"expect.note: the text .* has the character '\\ud800'"),
    "no character": (note('"\\U00110000"'), 7, "not valid YAML: a number that is out of range"),
    "no character of 32 bits": (note('"\\UFFFFFFFF"'), 7, "not valid YAML: a number that is out of range"),
    "a key that obeys": (TEXT + '"\\e[31mred": 1', 8, r"the text .* has the character '\\x1b'"),
    "Latin-1": (note("grüß").encode("latin1"), 7, "the byte 0xfc is no text in UTF-8: save the file in this encoding"),
    "UTF-16": (TEXT.encode("utf-16"), 1, "the byte 0xff is no text in UTF-8"),
    "half a character": (TEXT.encode() + b"\xe2\x82", 8, "the byte 0xe2 is no text in UTF-8"),
    "a raw surrogate": (note("x").encode() + b"\xed\xa0\x80", 8, "the byte 0xed is no text in UTF-8"),
    "a key that is a number": (TEXT + "1: 2", 8, r"expected a text as a key, got '1' \(int\)"),
    "a key that is a list": (TEXT + "[1]: 2", 8, "expected a text as a key, got a list"),
    "a key that is a section": (TEXT + "{a: b}: 2", 8, "expected a text as a key, got a section"),
    "a key that is null": (TEXT + "~: 2", 8, "expected a text as a key, got '~'"),
    "a key that is true": (TEXT + "yes: 2", 8, r"expected a text as a key, got 'yes' \(bool\)"),
    "a key that is a fraction": (depth("{1.5: 2}"), 2, "depth: expected a text or a whole number as a key, got '1.5'"),
    "a key twice": (TEXT + "data: {name: digits}", 8, r"data: given twice, first at .*recipe.yaml:3"),
    "an argument's key twice": (depth("{a: 1, a: 2}"), 2, r"model.kwargs.depth.a: given twice"),
    "an argument's number twice": (depth("{16: 1, 0x10: 2}"), 2, r"model.kwargs.depth.16: given twice"),
    "a long key": (TEXT + "? " + "k" * 10**5 + "\n: 1", 8, "kkk … k+: the key is unknown"),
    "a long name": (TEXT.replace("adamw", "a" * 10**5), 5, "optim: the optimizer 'aaa.*' is unknown"),
    "a long formula": (
        TEXT.replace("digits", "formulas, formula: " + "f" * 10**5),
        3,
        "data: the formula 'fff.*' is unknown",
    ),
    "a long metric": (TEXT.replace("test/top1", "/" * 10**5), 7, "expect: metric is '///.*'; it must be split/metric"),
    "a long policy": (
        TEXT.replace("digits", "image_folder, root: x, auto_augment: " + "q" * 10**5),
        3,
        "auto_augment is 'qqq",
    ),
}


def refuse(load, kind=RecipeError):
    """The message of a refusal, in so many words and seconds."""
    start = time.perf_counter()
    with pytest.raises(kind) as caught:
        load()
    assert time.perf_counter() - start < 10  # on a machine that has much else to do; a quiet one takes half a second
    assert len(str(caught.value)) < 2000 and str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_a_text_is_refused_with_file_and_line(name, tmp_path):
    text, line, message = REFUSED[name]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    said = refuse(lambda: load_recipe(path))
    assert said.startswith(f"{path}:{line}: "), said
    assert re.search(message, said), said


ACCEPTED = {
    "as it is": TEXT,
    "a mark of the byte order": b"\xef\xbb\xbf" + TEXT.encode(),
    "lines of Windows": TEXT.replace("\n", "\r\n"),
    "anchors": depth("{a: &a [1, 2], b: *a, c: [*a, *a]}"),
    "numbers of blocks": depth("{at: {-2: moe, 0: mlp}}"),
    "tags of the same type": TEXT.replace("64", "!!int 64").replace("1e-3", "!!float 1e-3"),
    "a text by its tag": note("!!str 5"),
    "a date in quotes": note("'2026-01-01'"),
    "a text of digits": note("'010'"),
    "grouped digits": TEXT.replace("64", "1_024"),
    "base 16": TEXT.replace("64", "0x40"),
    "a rate of YAML 1.2": TEXT.replace("1e-3", "1E-3"),
    "umlauts": note("grüß 模型"),
    "lines in a text": note('"a\\n\\tb"'),
    "a long comment": TEXT + "#" * 200_000,
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_right_is_read_and_comes_back(name, tmp_path):
    text, path = ACCEPTED[name], tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    recipe = load_recipe(path)
    path.write_text(dump_recipe(recipe), "utf-8")
    assert load_recipe(path) == recipe


def test_what_is_no_file(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TEXT)
    assert "Is a directory" in refuse(lambda: load_recipe(tmp_path))
    assert "there is no recipe" in refuse(lambda: load_recipe(tmp_path / "none.yaml"), FileNotFoundError)
    assert r"\x1b[31m" in refuse(lambda: load_recipe(tmp_path / "\x1b[31m"), FileNotFoundError)
    assert "there is no recipe" in refuse(lambda: load_recipe("x/" * 2000), FileNotFoundError)
    assert "Not a directory" in refuse(lambda: load_recipe(tmp_path / "recipe.yaml" / "x"))
    assert "File name too long" in refuse(lambda: load_recipe(tmp_path / ("x" * 5000)))
    assert "embedded null byte" in refuse(lambda: load_recipe("a\0b"))
    assert "a pipe or a device, not a file" in refuse(lambda: load_recipe("/dev/null"))
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: a pipe or a device, not a file: name a YAML file" in refuse(lambda: load_recipe(tmp_path / "pipe"))
    (tmp_path / "empty.yaml").touch()
    assert "the file is empty" in refuse(lambda: load_recipe(tmp_path / "empty.yaml"))


def test_a_file_of_100_megabytes_is_not_read(tmp_path):
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(10**8)
    said = refuse(lambda: load_recipe(tmp_path / "large.yaml"))
    assert f"large.yaml: more than {CHARACTERS:,} bytes; no recipe is so long" in said


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("", "expected key.sub=value"),
        ("=", "expected key.sub=value"),
        ("=1", "expected key.sub=value"),
        (".=1", "expected key.sub=value"),
        ("train.=1", "expected key.sub=value"),
        (".train=1", "expected key.sub=value"),
        ("train.batch_size", "expected key.sub=value"),
        ("train.batch_size=", r"train.batch_size: expected a whole number, got 'null' \(null\)"),
        ("train=", r"train: expected a section of `key: value` lines, got 'null'"),
        ("train.batch_size.x=1", "train.batch_size.x leads through '64'"),
        (
            "optim.betas=[0.9, 0.9]\n---\n1",
            r"override optim.betas=\[0.9, 0.9\]\\n---\\n1: not valid YAML: expected a sing",
        ),
        ("optim.betas.0=1", "optim.betas: expected a list, got a section"),
        ("model.kwargs.patch_size.0.x=1", "model.kwargs.patch_size.0.x leads through"),
        ("\0=1", r"override \\x00=1: not valid|has the character '\\x00'"),
        ("train.seed=\0", r"override train.seed=\\x00: not valid YAML: the character '\\x00'"),
        ("train.seed=\x1b[31m", r"the character '\\x1b'"),
        ("\x1b[31m=1", r"has the character '\\x1b'"),
        ("train.seed=\udcff", r"override train.seed=\\udcff: not valid YAML: the character '\\udcff'"),
        ("model.kwargs.\udcff=1", r"has the character '\\udcff'"),
        ("train.seed=" + "9" * 5000, "train.seed: '99.*' is no whole number of at most 64 bits"),
        ("train.seed=18446744073709551616", "train.seed: 18446744073709551616 is too large"),
        ("train.seed=" + "9" * 10**6, f"1,000,000 characters; no recipe has more than {CHARACTERS:,}"),
        ("x" * 10**6 + "=1", "x: the key is unknown"),
        (".".join("a" * 10**4) + "=1", f"10000 keys, one within the other; no recipe needs more than {DEPTH}"),
        ("model.kwargs." + ".".join("a" * 10**4) + "=1", f"10002 keys, .* more than {DEPTH}"),
        ("model.kwargs.x=" + "[" * 10**4, f"nested more than {DEPTH} deep"),
        ("model.kwargs.x=&a [*a]", "the alias lies within what it stands for"),
        ("train.seed=*a", "found undefined alias"),
        ("train.seed=# nothing", "there is nothing in it"),
        ("train.seed=a: b: c", "not valid YAML: .*mapping values are not allowed"),
        ("train.seed=1:30", "train.seed: '1:30' is a number in base 60"),
        ("train.threads=100000", "train.threads is 100000; it must be from 1 to 1024"),
        (" train.seed=1", "the key is unknown; did you mean 'train'"),
    ],
    ids=range(33),
)
def test_an_override_is_refused_by_its_own_name(assignment, message, tmp_path):
    (tmp_path / "recipe.yaml").write_text(TEXT.replace("patch_size: 4", "patch_size: [4, 4]"))
    said = refuse(lambda: load_recipe(tmp_path / "recipe.yaml", [assignment]))
    assert said.startswith("override ") and re.search(message, said), said


def test_overrides_are_a_list_of_texts(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TEXT)
    with pytest.raises(TypeError, match="overrides is a list of texts such as .*, not 'train.seed=1'"):
        load_recipe(tmp_path / "recipe.yaml", "train.seed=1")
    with pytest.raises(TypeError, match="an override is a text such as 'train.batch_size=32', not 5"):
        load_recipe(tmp_path / "recipe.yaml", [5])


def test_arguments_of_other_types_are_named(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TEXT)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    for path in (None, 3, b"recipe.yaml", recipe):
        assert "path is " in refuse(lambda path=path: load_recipe(path), TypeError)
    for overrides in (None, 3, b"a=1", "a=1"):
        said = refuse(lambda overrides=overrides: load_recipe(tmp_path / "recipe.yaml", overrides), TypeError)
        assert "overrides is a list of texts" in said
    for given in ("recipe.yaml", None, tmp_path / "recipe.yaml", {}):
        said = refuse(lambda given=given: Trainer(given, tmp_path / "run"), TypeError)
        assert "must be a Recipe, such as load_recipe(path) gives" in said
    for output in (None, 3, b"run"):
        said = refuse(lambda output=output: Trainer(recipe, output), TypeError)
        assert "it must be the path of the run's folder" in said
    assert "source is 3" in refuse(lambda: Trainer(recipe, tmp_path / "run", 3), TypeError)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
@pytest.mark.parametrize(
    "more", ["", ", pyramid: {num_classes: 2}", ", heads: {a: {name: classifier, num_classes: 2}}"]
)
def test_arguments_that_are_no_recipes_to_give(tmp_path, name, more):
    (tmp_path / "recipe.yaml").write_text(TEXT.replace("depth: 1}}", f"depth: 1, {name}: meta}}{more}}}"))
    said = refuse(lambda: load_recipe(tmp_path / "recipe.yaml"))
    assert f"recipe.yaml:2: model: kwargs.{name} is no argument for a recipe: {ELSEWHERE[name]}" in said
    with pytest.raises(ValueError, match=f"kwargs.{name} is no argument for a recipe"):
        Model("mixer_test", {name: True})


def test_an_override_changes_what_it_names_and_no_alias_of_it(tmp_path):
    (tmp_path / "recipe.yaml").write_text(depth("{a: &a {x: 1}, b: *a}"))
    arguments = load_recipe(tmp_path / "recipe.yaml", ["model.kwargs.depth.a.x=2"]).model.kwargs["depth"]
    assert arguments == {"a": {"x": 2}, "b": {"x": 1}}


def test_an_override_hides_no_key_that_is_given_twice(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TEXT + "data: {name: digits}\n")
    assert "data: given twice" in refuse(lambda: load_recipe(tmp_path / "recipe.yaml", ["data={name: digits}"]))


# --- Texts by chance --------------------------------------------------------------------------------------------------

PIECES = [
    *("[", "]", "{", "}", ":", ": ", ",", "- ", "? ", "\n", "\n  ", "\t", "#", "|", ">", "'", '"', "\\", "%", "@", "`"),
    *(
        "&a ",
        "*a",
        "<<: *a",
        "!!int ",
        "!!python/object:os.system ",
        "!!binary ",
        "!x ",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
    ),
    *(".nan", ".inf", "-.inf", "1e999", "-1", "0", "9" * 30, "9" * 5000, "010", "1:30", "0x", "2026-99-99", "~", "yes"),
    *("1e-320", "1.5", "10**3", "5ep", "0st", "99999999999st", "null", "=", "<<", "\0", "\x1b[31m", "\x85", "\ufeff"),
    *(
        "\ud800",
        "\u2028",
        "é",
        '"\\ud800"',
        '"\\0"',
        '"\\UFFFFFFFF"',
        "[" * 200,
        "x" * 3000,
        "&a [*a]",
        "{1: 2}",
        "[[]]",
    ),
]


def mutated(text, rng):
    """The text with some of its pieces changed, as bytes."""
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        here, piece = rng.randrange(len(text) + 1), rng.choice(PIECES)
        words = list(re.finditer(r"[^\s,:\[\]{}]+", text))
        how = rng.randrange(6)
        if how == 0:
            text = text[:here] + piece + text[here:]
        elif how == 1:
            text = text[:here] + text[here + rng.randrange(1, 40) :]
        elif how == 2 and words:
            word = rng.choice(words)
            text = text[: word.start()] + piece + text[word.end() :]
        elif how == 3 and words:
            word, other = rng.choice(words), rng.choice(words)
            text = text[: word.start()] + other[0] + text[word.end() :]
        elif how == 4:
            lines = text.splitlines(keepends=True)
            i, j = rng.randrange(len(lines) + 1), rng.randrange(len(lines) + 1)
            text = "".join(lines[:i] + lines[min(i, j) : max(i, j)] + lines[i:])
        else:
            there = rng.randrange(len(text) + 1)
            text = text[:here] + text[there : there + rng.randrange(1, 200)] + text[here:]
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        data = bytes(byte if rng.random() > 0.002 else rng.randrange(256) for byte in data)
    return data


def try_texts(count, seed, tmp_path):
    """How many of so many texts are read; the others are refused, by file and line if there is a line."""
    rng, path, read = random.Random(seed), tmp_path / "some recipe.yaml", 0
    for _ in range(count):
        original = rng.choice(RECIPES).read_text("utf-8")
        if rng.random() < 0.3:
            original = dump_recipe(load_recipe(rng.choice(RECIPES)))
        data = mutated(original, rng)
        path.write_bytes(data)
        key = rng.choice(["train.seed", "optim", "model.kwargs.depth", "data.size", "expect.note", "tasks"])
        overrides = [f"{key}={rng.choice(PIECES)}"] if rng.random() < 0.2 else []
        try:
            recipe = load_recipe(path, overrides)
        except RecipeError as error:
            said = str(error)
            assert re.match(rf"{re.escape(str(path))}:(\d+: | the file is empty)|override ", said), (
                said,
                data,
                overrides,
            )
            assert len(said) < 2000 and said.isprintable()
        except Exception as error:
            raise AssertionError(f"{data!r} with {overrides} ends in {type(error).__name__}") from error
        else:
            read += 1
            path.write_text(dump_recipe(recipe), "utf-8")
            assert load_recipe(path) == recipe, data
    return read


def test_100_texts_by_chance_are_read_or_refused(tmp_path):
    assert 5 < try_texts(100, 0, tmp_path) < 95


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_1000_texts_by_chance_are_read_or_refused(seed, tmp_path):
    try_texts(1000, seed, tmp_path)
