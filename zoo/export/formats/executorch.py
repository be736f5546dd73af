"""ExecuTorch, for phones and small devices: its products by XNNPACK on the CPU."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from zoo.export.facts import KEY
from zoo.export.formats import Format, Record, Run
from zoo.export.int8 import quantised_program
from zoo.export.quiet import quiet


class ExecuTorch(Format):
    """A ``.pte``; its facts are what its method ``zoo`` gives."""

    name, suffix, needs = "executorch", ".pte", ("executorch",)
    extra = "executorch"
    most_samples = 8
    quantises = True

    def write(self, program: ExportedProgram, path: Path, facts: str) -> None:
        with quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            methods = {KEY: facts}
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods=methods)
            path.write_bytes(edge.to_executorch().buffer)

    def quantise(self, path: Path, new: Path, batches: Iterable[Tensor], model: nn.Module, record: Record) -> None:
        with quiet():
            from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack

        config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
        small = quantised_program(record(model), xnnpack.XNNPACKQuantizer().set_global(config), batches)
        self.write(record(small), new, json.dumps(self.facts(path)))

    def load(self, path: Path, threads: int | None = None) -> Run:
        method = _program(path).load_method("forward")

        def run(x: Tensor) -> Tensor:
            return method.execute([x.contiguous()])[0].clone()

        return run

    def facts(self, path: Path) -> dict[str, Any]:
        return json.loads(_program(path).load_method(KEY).execute([])[0])


def _program(path: Path):
    with quiet():
        from executorch.runtime import Runtime, Verification

        return Runtime.get().load_program(path, verification=Verification.Minimal)


FORMAT = ExecuTorch()
