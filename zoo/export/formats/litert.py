"""LiteRT (once TensorFlow Lite), for phones and small devices."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from zoo.export.formats import Format, Run
from zoo.export.quiet import quiet


class LiteRt(Format):
    """A ``.tflite``, for batches of one size; its facts stand beside it."""

    name, suffix, beside, needs = "litert", ".tflite", (".json",), ("litert_torch", "ai_edge_litert")
    extra = "litert"
    open_batch = False

    def write(self, program: ExportedProgram, path: Path, facts: str) -> None:
        with quiet():
            import litert_torch

            inputs, _ = program.example_inputs
            litert_torch.convert(program.module(), inputs).export(str(path))
        path.with_suffix(".json").write_text(facts, "utf-8")

    def load(self, path: Path, threads: int | None = None) -> Run:
        with quiet():
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(str(path), num_threads=threads or torch.get_num_threads())
        interpreter.allocate_tensors()
        (taken,), (given, *_) = interpreter.get_input_details(), interpreter.get_output_details()

        def run(x: Tensor) -> Tensor:
            interpreter.set_tensor(taken["index"], x.numpy())
            interpreter.invoke()
            return torch.from_numpy(interpreter.get_tensor(given["index"]))

        return run

    def facts(self, path: Path) -> dict[str, Any]:
        return json.loads(path.with_suffix(".json").read_text("utf-8"))


FORMAT = LiteRt()
