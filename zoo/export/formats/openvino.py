"""OpenVINO's intermediate representation."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from zoo.export.facts import KEY
from zoo.export.formats import Format, Run
from zoo.export.quiet import quiet


class OpenVino(Format):
    """A graph in an ``.xml``, its weights beside it in a ``.bin`` of the same name."""

    name, suffix, beside, needs = "openvino", ".xml", (".bin",), ("openvino",)

    transposes = True

    def write(self, program: ExportedProgram, path: Path, facts: str) -> None:
        import openvino

        with quiet():
            graph = openvino.convert_model(program)
            graph.set_rt_info(facts, [KEY])
            openvino.save_model(graph, path, compress_to_fp16=False)

    def load(self, path: Path, threads: int | None = None) -> Run:
        import openvino

        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or torch.get_num_threads()}
        with quiet():
            request = openvino.Core().compile_model(path, "CPU", hints).create_infer_request()

        def run(x: Tensor) -> Tensor:
            return torch.from_numpy(request.infer([x.numpy()])[0].copy())

        return run

    def facts(self, path: Path) -> dict[str, Any]:
        import openvino

        return json.loads(openvino.Core().read_model(path).get_rt_info([KEY]).value)


FORMAT = OpenVino()
