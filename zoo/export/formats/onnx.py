"""ONNX, for ONNX Runtime and whatever else reads it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from zoo.export.facts import KEY
from zoo.export.formats import Format, Record, Run
from zoo.export.int8 import quantise_onnx
from zoo.export.quiet import quiet


class Onnx(Format):
    """An ONNX model in one file."""

    name, suffix, needs = "onnx", ".onnx", ("onnx", "onnxscript", "onnxruntime")

    transposes = quantises = True

    def write(self, program: ExportedProgram, path: Path, facts: str) -> None:
        with quiet():
            names = {"input_names": ["input"], "output_names": ["output"]}
            written = torch.onnx.export(program, (), dynamo=True, optimize=True, **names)
            written.model.metadata_props[KEY] = facts
            written.save(str(path), external_data=False)

    def quantise(self, path: Path, new: Path, batches: Iterable[Tensor], model: nn.Module, record: Record) -> None:
        quantise_onnx(path, new, batches)

    def load(self, path: Path, threads: int | None = None) -> Run:
        session = session_of(path, threads)
        name = session.get_inputs()[0].name

        def run(x: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: x.numpy()})[0])

        return run

    def facts(self, path: Path) -> dict[str, Any]:
        return json.loads(session_of(path).get_modelmeta().custom_metadata_map[KEY])


def session_of(path: Path, threads: int | None = None):
    """A session of ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads or torch.get_num_threads(), 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


FORMAT = Onnx()
