"""AOTInductor: the program compiled ahead of time into a library, which runs without Python too."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from zoo.blocks.kernels import private
from zoo.export.facts import KEY
from zoo.export.formats import Format, Run
from zoo.export.quiet import quiet


class Aoti(Format):
    """A package of compiled code and weights, for the kind of machine that it was made on."""

    name, suffix, of_torch = "aoti", ".pt2", True

    def write(self, program: ExportedProgram, path: Path, facts: str) -> None:
        if private.aoti_compile is None:
            raise ValueError(f"torch {torch.__version__} has no AOTInductor; export to another format")
        with quiet():
            options = {"aot_inductor.metadata": {KEY: facts}}
            private.aoti_compile(program, package_path=str(path), inductor_configs=options)

    def load(self, path: Path, threads: int | None = None) -> Run:
        module = private.aoti_load(str(path))

        def run(x: Tensor) -> Tensor:
            with torch.inference_mode():
                return module(x)

        return run

    def facts(self, path: Path) -> dict[str, Any]:
        return json.loads(private.aoti_load(str(path)).get_metadata()[KEY])


FORMAT = Aoti()
