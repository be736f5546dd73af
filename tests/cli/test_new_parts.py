"""What `zoo new` writes works as it stands: its example runs, and a package that has it is found with its parts."""

import re
import subprocess
import sys

import pytest
from commands import Command
from conftest import ROOT, outside

HEADINGS = ("Args:", "Shape:", "Example:", "Source:", "Differs:", "Cost:", "Raises:")


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Command(capsys)


def run_example(path) -> None:
    code = f"import doctest, runpy, sys; sys.argv = ['doctest', {str(path)!r}]; sys.exit(doctest._test())"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=path.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("slot", ["token_mixer", "channel_mixer"])
def test_a_mixer(command, tmp_path, slot):
    said = command.text("new", "mixer", "gated_shift", "--slot", slot)
    path = tmp_path / "gated_shift.py"
    text = path.read_text()
    assert said.startswith("wrote gated_shift.py\n") and f'{slot}="gated_shift"' in said
    places = [text.index(f"    {heading}") for heading in HEADINGS]
    assert places == sorted(places) and f'@register("{slot}", "gated_shift")\nclass GatedShift(Mixer):' in text
    run_example(path)
    run = outside(tmp_path, "mine", {"gated_shift.py": text})
    done = run(
        "import torch, zoo\n"
        f"assert 'gated_shift' in zoo.list_blocks({slot!r})\n"
        f"model = zoo.create_model('swin_test', {slot}='gated_shift(bias=False)').eval()\n"
        "x = torch.randn(2, *model.input_size)\n"
        "report = zoo.count_flops(model)\n"
        "assert not report.uncounted or report.macs\n"
        "zoo.save_pretrained(model, 'saved')\n"
        "again = zoo.create_model('local-dir:saved').eval()\n"
        "assert torch.equal(model(x), again(x))\n"
        "model.train()(x).sum().backward()\n"
        "print('whole')"
    )
    assert done.stdout == "whole\n"


def test_a_mixer_may_be_called_what_its_file_imports(command, tmp_path):
    command.text("new", "mixer", "linear")
    assert "class LinearMixer(Mixer):" in (tmp_path / "linear.py").read_text()
    run_example(tmp_path / "linear.py")


def test_a_family(command, tmp_path):
    found = command.json("new", "family", "my_net", "--output", str(tmp_path / "my_net.py"))
    assert found["file"] == str(tmp_path / "my_net.py") and len(found["next"]) == 4
    text = (tmp_path / "my_net.py").read_text()
    assert re.search(r"^Paper:.*\nCode: .*\nWeights:", text, re.M)
    run_example(tmp_path / "my_net.py")
    run = outside(tmp_path, "mine", {"my_net.py": text})
    done = run(
        "import sys; sys.argv = ['zoo']\n"
        "from zoo.cli import main\n"
        "main(['list', 'my_net', '--tests'])\n"
        "main(['compare', 'my_net_test', 'vit_test'])\n"
        "main(['flops', 'my_net_test'])\n"
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["name", "my_net_small", "my_net_test", "name", "my_net_test"]
    assert "MACs" in lines[6] and lines[-1].startswith("total")


def test_nothing_is_overwritten(command, tmp_path):
    command.text("new", "family", "mine")
    (tmp_path / "mine.py").write_text("my own")
    assert "mine.py is there already" in command.refusal("new", "family", "mine")
    assert (tmp_path / "mine.py").read_text() == "my own"
    assert "there is no folder nowhere" in command.refusal("new", "family", "other", "--output", "nowhere/other.py")
    assert "not one of 'mixer', 'family'" in command.refusal("new", "head", "mine")
