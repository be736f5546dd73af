"""Running the command as a user does, in this process and in one of its own."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from conftest import ROOT

from zoo.cli import main

PROGRAM = """
import sys
sys.argv[0] = "zoo"
import zoo.tools.index as index
index.is_current = lambda: True  # a family newer than the index would be asked of the registry
from zoo.cli import main
try:
    main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


class Command:
    """Runs commands here, and gives what they print."""

    def __init__(self, capsys):
        self.capsys = capsys

    def text(self, *arguments: str) -> str:
        self.capsys.readouterr()
        main(arguments)
        return self.capsys.readouterr().out

    def json(self, *arguments: str) -> Any:
        return json.loads(self.text(*arguments, "--json"))

    def refusal(self, *arguments: str) -> str:
        """What stderr says of arguments that cannot be obeyed: status 2, one or two lines, nothing on stdout."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = self.capsys.readouterr()
        assert ended.value.code == 2 and not said.out
        assert said.err.startswith("error: ") and said.err.count("\n") <= 2
        return said.err


def fresh(*arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess, bool]:
    """A command in an interpreter of its own, and whether that has imported torch."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, encoding="utf-8")
    *said, imported = done.stderr.splitlines()
    done.stderr = "\n".join(said)
    return done, {"True": True, "False": False}[imported]
