"""Ways to run a model: each makes a call of a model and a batch, by a compiler or a runtime that may not be there.

A way is a function ``(model, x, precision, threads) -> call``; the model is in eval mode and in fp32, and the call
gives the outputs as a tensor. To add one, decorate a function by `way`.
"""

import copy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.blocks.kernels import private
from zoo.export.formats import Format, formats
from zoo.export.program import program_of
from zoo.export.quiet import quiet

Precision = Literal["fp32", "bf16", "int8"]
Call = Callable[[], Tensor]
Way = Callable[[nn.Module, Tensor, Precision, int], Call]
WAYS: dict[str, Way] = {}


class Unavailable(Exception):
    """A way that cannot be gone here, with the reason."""


def way(name: str) -> Callable[[Way], Way]:
    """Decorator that makes a way known by a name."""

    def add(function: Way) -> Way:
        WAYS[name] = function
        return function

    return add


@way("eager")
def eager(model: nn.Module, x: Tensor, precision: Precision, threads: int) -> Call:
    """PyTorch as it is; int8 by torch's dynamic quantisation of linear maps."""
    return _in_torch(*_cast(model, x, precision))


@way("compile")
def compiled(model: nn.Module, x: Tensor, precision: Precision, threads: int) -> Call:
    """`torch.compile`, the whole model in one graph."""
    model, x = _cast(model, x, _compilable(precision))
    return _in_torch(torch.compile(model, fullgraph=True, dynamic=False), x)


@way("compile_frozen")
def compiled_with_weights(model: nn.Module, x: Tensor, precision: Precision, threads: int) -> Call:
    """`torch.compile` with the weights as constants, which it may lay out anew: for inference alone."""
    if private.freezing is None:
        raise Unavailable("this torch's compiler takes no weights for constants")
    model, x = _cast(copy.deepcopy(model), x, _compilable(precision))  # its weights are gone from it afterwards
    # A function of its own: of the model's forward pass dynamo may have a program already, which takes weights as
    # inputs and fits this model too; whichever ran last would run for both.
    call = _in_torch(torch.compile(lambda x: model(x), fullgraph=True, dynamic=False), x)
    with private.freezing():
        call()
    return call


@way("aot_inductor")
def aot_inductor(model: nn.Module, x: Tensor, precision: Precision, threads: int) -> Call:
    """`torch.export`, compiled ahead of time into a library."""
    if private.aoti_compile is None or private.aoti_load is None:
        raise Unavailable("this torch has no AOTInductor")
    model, x = _cast(model, x, _compilable(precision))
    program = program_of(model, x, batch=False, layout=False)
    with tempfile.TemporaryDirectory() as folder:
        run = private.aoti_load(private.aoti_compile(program, package_path=str(Path(folder) / "model.pt2")))
    return _in_torch(run, x)


@way("onnxruntime")
def onnxruntime(model: nn.Module, x: Tensor, precision: Precision, threads: int) -> Call:
    """ONNX Runtime on the CPU; int8 by its dynamic quantisation."""
    onnx = _format("onnx")
    if precision == "bf16":
        raise Unavailable("ONNX Runtime has few operators in bf16 on a CPU")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.write(program_of(model, x, batch=False), path, "{}")
        if precision == "int8":
            from onnxruntime.quantization import quantize_dynamic

            with quiet():
                quantize_dynamic(path, path := path.with_name("int8.onnx"))
        run = onnx.load(path, threads)
    x = x.cpu()
    return lambda: run(x)


@way("openvino")
def openvino(model: nn.Module, x: Tensor, precision: Precision, threads: int) -> Call:
    """OpenVINO on the CPU, by its latency hint."""
    _format("openvino")
    import openvino

    if precision == "int8":
        raise Unavailable("OpenVINO quantises by NNCF, with data")
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    hints["INFERENCE_PRECISION_HINT"] = {"fp32": "f32", "bf16": "bf16"}[precision]
    with quiet():
        graph = openvino.convert_model(program_of(model, x, batch=False))
        graph.reshape(list(x.shape))
        request = openvino.Core().compile_model(graph, "CPU", hints).create_infer_request()
    feed = x.cpu().numpy()
    return lambda: torch.from_numpy(request.infer([feed], share_inputs=True)[0])


def _in_torch(function: Callable[[Tensor], Tensor], x: Tensor) -> Call:
    def call() -> Tensor:
        with torch.inference_mode():
            return function(x)

    return call


def _cast(model: nn.Module, x: Tensor, precision: Precision) -> tuple[nn.Module, Tensor]:
    """A copy of the model in a precision, and the batch that it takes."""
    if precision == "bf16":
        return copy.deepcopy(model).to(torch.bfloat16), x.to(torch.bfloat16)
    if precision == "int8":
        if x.is_cuda:
            raise Unavailable("torch's dynamic quantisation is for the CPU")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is to move to torchao, which is not installed with torch
            return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}), x
    return model, x


def _compilable(precision: Precision) -> Precision:
    if precision == "int8":
        raise Unavailable("torch's compiler takes no dynamically quantised layers")
    return precision


def _format(name: str) -> Format:
    """A format of exported models, if what it needs is installed."""
    if missing := formats()[name].missing():
        raise Unavailable(f"{missing[0]} is not installed; install zoo with its extra, [bench]")
    return formats()[name]
