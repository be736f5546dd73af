"""Torch's own exported program: for `torch.export.load`, ExecuTorch's tools and compilers, on any device."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from zoo.export.facts import KEY
from zoo.export.formats import Format, Run
from zoo.export.quiet import quiet

FILE = f"{KEY}.json"


class Exported(Format):
    """A program of `torch.export`, with its weights."""

    name, suffix, of_torch = "exported", ".pt2", True

    def write(self, program: ExportedProgram, path: Path, facts: str) -> None:
        with quiet():
            torch.export.save(program, path, extra_files={FILE: facts})

    def load(self, path: Path, threads: int | None = None) -> Run:
        with quiet():
            module = torch.export.load(path).module()

        def run(x: Tensor) -> Tensor:
            with torch.inference_mode():
                return module(x)

        return run

    def facts(self, path: Path) -> dict[str, Any]:
        extra = {FILE: ""}
        with quiet():
            torch.export.load(path, extra_files=extra)
        return json.loads(extra[FILE])


FORMAT = Exported()
