"""The command as a whole: help, errors, output to pipes and terminals, completion; and what it does not import."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import warnings

import pytest
import typer
from commands import Command, fresh
from conftest import ROOT

import zoo
from zoo.cli import application, commands, main
from zoo.cli.support.errors import Refused, sentence
from zoo.tools import index


@pytest.fixture
def command(capsys):
    return Command(capsys)


# --- Without torch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["bench", "--help"],
        ["list"],
        ["list", "mixer", "--json", "--tags", "--sort", "top1"],
        ["info", "mixer_b16_224"],
        ["compare", "mixer_b16_224", "vit_base_patch16_224"],
        ["list", "--sort", "size"],
        ["lst"],
        ["info", "mixer_s17_224"],
        ["bench", "mixer_tset"],
        ["flops", "vit_tiny_patch16_224.nobody"],
        ["predict", "cat.jpg", "--model", "mixer_s32_224"],
        ["new", "family", "vit"],
    ],
    ids=" ".join,
)
def test_help_lists_and_refusals_do_not_import_torch(arguments):
    done, imported = fresh(*arguments)
    assert not imported
    assert bool(done.stdout) == (done.returncode == 0) and done.returncode in (0, 2), done.stderr
    assert done.stderr.startswith("error: ") == (done.returncode == 2)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("zoo li", ["list"]),
        ("zoo info mixer_b", ["mixer_b16_224", "mixer_b32_224"]),
        ("zoo bench vit_test mixer_te", ["mixer_test"]),
        ("zoo predict a.png --model gmlp_s", ["gmlp_s16_224"]),
        ("zoo flops mixer_b16_224.goog_in21k_", ["mixer_b16_224.goog_in21k_ft_in1k"]),
        ("zoo card gm", ["gmixer", "gmlp"]),
        ("zoo list --sor", ["--sort"]),
    ],
)
def test_shells_complete_names_without_importing_torch(words, expected):
    last = str(len(words.split()) - 1)
    done, imported = fresh(_ZOO_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=last)
    assert done.stdout.split() == expected and not imported


def test_the_module_is_the_command_and_imports_no_torch_either():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for words, imported in ((["zoo", "--version"], False), (["zoo.bench", "--help"], True)):
        command = [sys.executable, "-X", "importtime", "-m", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.stdout.startswith("Usage: zoo bench" if imported else f"zoo {zoo.__version__}\n"), done.stderr
        assert bool(re.search(r"\| +torch$", done.stderr, re.M)) == imported


def test_a_script_that_is_not_the_command_registers_the_models_with_timm(tmp_path):
    (tmp_path / "zoology.py").write_text("import zoo, timm; print(timm.is_model('hourglass_mlp_tiny'))")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "zoology.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stderr


def test_a_command_that_needs_models_registers_them_too():
    done, imported = fresh("flops", "timm:hourglass_mlp_tiny", "--json")
    assert (
        imported
        and json.loads(done.stdout)["params"]
        == index.known()["models"]["hourglass_mlp_tiny"]["configurations"][0]["params"]
    )


# --- Help -------------------------------------------------------------------------------------------------------------


def test_every_command_has_help_json_and_an_example_that_its_parser_takes(command):
    group = typer.main.get_command(application())
    assert {"list", "info", "flops", "bench", "compare", "train", "eval", "predict", "card", "new"} <= set(commands())
    for name in commands():
        assert command.text(name, "--help").startswith(f"Usage: zoo {name} ")
        params = group.commands[name].params
        assert "--json" in {option for param in params for option in param.opts}
        assert all(param.help and (param.metavar or param.is_flag) for param in params)
        example = importlib.import_module(f"zoo.cli.{name}").EXAMPLE
        zoo_, first, *words = shlex.split(example.partition(">")[0])
        assert (zoo_, first) == ("zoo", name)
        group.commands[name].make_context(name, words)


def test_without_arguments_it_says_what_there_is(command):
    assert command.text() == command.text("--help") == command.text("-h")
    assert all(f"\n  {name} " in command.text() for name in commands())


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "mixer_s17_224"], "did you mean 'mixer_s16_224', 'mixer_s32_224' or "),
        (["flops", "MIXER_S16"], "did you mean 'mixer_s16_224'"),
        (["info", "mixer_b16_224.goog"], "no weights with the tag 'goog'; there are 'mixer_b16_224.goog_in21k', "),
        (["list", "--family", "swon"], "family 'swon' is unknown; did you mean 'swin'"),
        (["list", "--task", "clasification"], "did you mean 'classification'"),
        (["list", "--sort", "size"], "'size' is not one of"),
        (["lst"], "no such command 'lst'. Did you mean 'list'?\nzoo --help says"),
        (["info"], "missing argument 'NAME|FOLDER'\nzoo info --help says"),
        (["list", "--srt"], "no such option: --srt"),
        (["flops", "vit_test", "--depth", "x"], "'--depth'"),
        (["flops", "vit_test", "--depth", "-1"], "depth is -1; it must be"),
        (["flops", "timm:resnet17"], "timm's model 'resnet17' is unknown; did you mean 'resnet1"),
        (["flops", "vit_test", "--img-size", "33"], "image size 33 x 33 is not a whole number of"),
        (["info", "./nowhere"], "./nowhere holds no saved model"),
        (["flops", "nowhere/"], "nowhere/ holds no saved model"),
        (["bench", "vit_test", "--way", "eger"], "way 'eger' is unknown; did you mean 'eager'"),
        (["compare", "vit_test", "--plot", "a.jpg"], "--plot a.jpg cannot be written; name a .png file"),
        (["card", "vitt"], "family 'vitt' is unknown; did you mean 'vit'"),
        (["new", "mixer", "Gated"], "the name is 'Gated'; give small letters"),
        (["new", "mixer", "mlp"], "there is a mixer 'mlp' already"),
        (["new", "mixer", "none"], "'none' means something else already"),
        (["new", "family", "import"], "'import' means something else already"),
        (["convert", "gone.pth", "--as", "vit_test"], "there is no weight file gone.pth"),
        (["convert", "gone.zip", "--as", "vit_test"], "gone.zip is an archive; unpack it"),
        (["convert", "gone.pth", "--as", "vit_tset"], "model 'vit_tset' is unknown; did you mean"),
        (["info", "hf-hub:timm/resnet18"], "info opens nothing on the Hub"),
        (["bench", "vit_test", "--way=eager", "eger"], "way 'eger' is unknown; did you mean 'eager'"),
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["eval", "nowhere"], "nowhere holds no run"),
        (["predict", "a.png", "--model", "mixer_s32_224"], "no weights of mixer_s32_224 are released"),
        (["predict", "a.png", "--model", "timm:resnet18"], "predict runs zoo's own models"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_gets_a_line_that_says_what_is_right(command, arguments, words):
    assert words in command.refusal(*arguments)


def test_an_unknown_name_shows_three_names_and_not_all(command):
    said = command.refusal("info", "swin_tiny_patch4_window8_224")
    assert said.count("'") == 2 * (1 + 3) and len(said) < 300


def test_hostile_names_are_escaped(command):
    assert "\x1b" not in command.refusal("info", "mixer\x1b[31m") + command.refusal("info", "\x1b]0;x/")


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("zoo.tools.index.known", lambda: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):  # no sentence of zoo's
        main(["list"])
    monkeypatch.setattr("zoo.cli.support.models.resolve", lambda: "vit_test")
    with pytest.raises(TypeError, match="takes 0 positional arguments"):  # raised in zoo, but not by zoo
        main(["flops", "vit_test"])


def test_what_is_told_and_what_is_not():
    def error_of(call):
        try:
            call()
        except Exception as error:
            return error

    assert sentence(error_of(lambda: zoo.create_model("vit_tset"))).startswith("error: model 'vit_tset' is unknown")
    assert sentence(error_of(lambda: zoo.create_model(3))).startswith("error: model_name is 3")
    assert sentence(error_of(lambda: zoo.create_model())) is None
    assert sentence(error_of(lambda: os.stat("/nowhere/at/all"))).startswith("error: [Errno 2]")
    assert sentence(error_of(lambda: importlib.import_module("nobody_has_this"))) == (
        "error: nobody_has_this is not installed, and this needs it: pip install 'zoo[train,plot,export]'"
    )
    assert sentence(error_of(lambda: importlib.import_module("zoo.nobody"))) is None
    assert sentence(error_of(lambda: [][1])) is None
    for reason, status in ((ValueError(), 2), (FileNotFoundError(), 2), (OSError(), 1), (FloatingPointError(), 1)):
        ended = Refused("error: so", reason)
        assert ended.code == status and str(ended) == "error: so"


# --- Output -----------------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: str) -> str:
    """What a command writes to a terminal, on stdout and stderr together."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100"}
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "CI", "GITHUB_ACTIONS"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "zoo", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=follower, stderr=follower, stdin=follower)
    os.close(follower)
    written = b""
    while True:
        try:
            written += os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
    os.close(leader)
    assert process.wait(120) == 0
    return written.decode()


def test_a_pipe_gets_plain_text_that_is_not_cut(command):
    done, _ = fresh("list", "--tags", COLUMNS="40", FORCE_COLOR="1")
    longest = "swin_moe_base_patch4_window12_192_cosine_router_32expert_32gpu_22k"
    assert longest in done.stdout and "\x1b" not in done.stdout and "…" not in done.stdout
    head, *rows = done.stdout.splitlines()
    assert head.split("  ")[0] == "name" and len({len(row) for row in rows}) > 1
    assert all(ord(letter) < 128 for letter in done.stdout)


def test_a_terminal_gets_colours():
    assert "\x1b[1mname" in on_a_terminal("list", "mixer_s") and "mixer_s16_224" in on_a_terminal("list", "mixer_s")
    assert "\x1b" in on_a_terminal("list", "--help")


def test_a_terminal_gets_a_bar_of_what_takes_long():
    written = on_a_terminal("bench", "mixer_test", "--rounds", "3", "--threads", "1")
    assert "Loading PyTorch" in written and "Timing" in written and "6/6" in written and "samples/s" in written


def test_an_option_with_several_values_takes_every_word_up_to_the_next_option(command):
    found = command.json("bench", "mixer_test", "--batch", "1", "2", "--rounds", "1")
    assert [row["contender"]["batch_size"] for row in found["rows"]] == [1, 2]
    found = command.json("bench", "--batch=2", "--rounds", "1", "mixer_test", "vit_test")
    assert [row["contender"]["batch_size"] for row in found["rows"]] == [2, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "mixer"],
        ["info", "vit_test"],
        ["flops", "vit_test"],
        ["bench", "vit_test", "--rounds", "1"],
        ["compare", "vit_test", "mixer_b16_224"],
        ["compare", "vit_test", "--latency", "--rounds", "1"],
        ["card", "kan"],
        ["train", "recipes/mixer_digits.yaml", "--print"],
    ],
    ids=" ".join,
)
def test_json_is_all_that_stdout_gets(command, arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command.json(*arguments)


# --- The file of a command --------------------------------------------------------------------------------------------


def test_a_new_command_is_one_file(tmp_path, monkeypatch, command):
    (tmp_path / "count.py").write_text('def run(n: int):\n    """Count."""\n    print(list(range(n)))\n')
    package = importlib.import_module("zoo.cli")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert "count" in commands() and command.text("count", "3") == "[0, 1, 2]\n"


def test_files_of_commands_are_short_and_import_little():
    for name in commands():
        path = ROOT / "zoo" / "cli" / f"{name}.py"
        assert len(path.read_text("utf-8").splitlines()) <= 150, path


def test_a_warning_of_zoo_is_a_line_without_a_place_in_the_code(monkeypatch, capsys):
    def run() -> None:
        warnings.warn_explicit("the share is drawn", UserWarning, zoo.__file__, 7)
        warnings.warn_explicit("of another", UserWarning, "/elsewhere/torch/nn.py", 7)

    show = lambda *warning: print(warnings.formatwarning(*warning[:4]), end="")
    monkeypatch.setattr(warnings, "showwarning", show)  # pytest's own keeps them, and writes none
    monkeypatch.setattr("zoo.cli.card.run", run)
    usual = warnings.formatwarning
    main(["card"])
    said = capsys.readouterr().out
    assert said == "warning: the share is drawn\n/elsewhere/torch/nn.py:7: UserWarning: of another\n"
    assert warnings.formatwarning is usual
