"""docs/cli.md is what the commands say, and the README's commands run."""

import re
import shlex

import pytest
from conftest import ROOT, assert_fresh

from zoo.cli import commands, main
from zoo.cli.support import manual

SECTION = (ROOT / "README.md").read_text("utf-8").partition("\n## Command line\n")[2].partition("\n## ")[0]
LINES = re.search(r"```bash\n(.*?)```", SECTION, re.S)[1].splitlines()


def test_the_page_is_up_to_date():
    assert_fresh("docs/cli.md", manual.page())


def test_the_page_has_every_command_and_every_option():
    page = manual.page()
    assert re.findall(r"^## zoo (\w+)$", page, re.M) == commands()
    assert "- `--sort name|macs|params|top1`: What to sort by. Default: name.\n" in page
    assert "    zoo train [OPTION]... RECIPE [KEY=VALUE]...\n" in page
    assert "- `--model NAME|FOLDER`: One with released weights, or a folder. Needed.\n" in page


@pytest.mark.parametrize("line", LINES)
def test_the_commands_of_the_readme_run(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(line, comments=True)
    assert program == "zoo"
    main(words)
    assert capsys.readouterr().out
