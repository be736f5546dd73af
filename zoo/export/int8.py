"""Static quantisation after training: weights and activations of linear maps and convolutions in 8 bits."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from zoo.export.formats import Run
from zoo.export.quiet import Refused, quiet

NO_BATCH = "calibration has no batch; give some hundred samples such as the model will see"


def quantise_onnx(path: Path, new: Path, batches: Iterable[Tensor]) -> None:
    """Write an ONNX file anew with its products in 8 bits, by ONNX Runtime's quantiser.

    Weights have a scale a channel; activations one a tensor, from the range of values that the batches give.

    Args:
        path: The file in fp32.
        new: The file to be written.
        batches: Inputs such as the model will see.

    Raises:
        ValueError: There is no batch.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):
        def __init__(self):
            self.left: Iterator[Tensor] = iter(batches)
            self.count = 0

        def get_next(self) -> dict | None:
            x = next(self.left, None)
            self.count += x is not None
            return None if x is None else {"input": x.numpy()}

    prepared, reader = new.with_suffix(".prepared"), Batches()
    with quiet():
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        try:
            quantize_static(
                *(str(prepared), str(new), reader),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "MatMul", "Gemm"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # of no batch at all, it says something about its own ranges
            if not reader.count:
                raise Refused(NO_BATCH) from error
            raise
    prepared.unlink()


def quantised_program(program: ExportedProgram, quantizer: Any, batches: Iterable[Tensor]) -> nn.Module:
    """A program with its products in 8 bits where a backend's quantizer wants them, by torchao.

    Args:
        program: In fp32.
        quantizer: Says which tensors are rounded, and how.
        batches: Inputs such as the model will see.

    Returns:
        A module of the same inputs, to be recorded anew.

    Raises:
        ValueError: There is no batch.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    with quiet(), torch.no_grad():
        prepared, count = prepare_pt2e(program.module(), quantizer), 0
        for x in batches:
            prepared(x)
            count += 1
        if not count:
            raise Refused(NO_BATCH)
        return convert_pt2e(prepared)


def accuracy(run: Run, samples: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The share of samples whose greatest output is their class.

    Args:
        run: A batch to logits ``(B, classes)``: a model, or an exported file.
        samples: Batches of inputs and of classes ``(B,)``.

    Example:
        >>> accuracy(lambda x: -x, [(torch.tensor([[0., 1.], [2., 1.], [3., 4.]]), torch.tensor([0, 1, 1]))])
        0.6666666666666666

    Raises:
        ValueError: There is no sample.
    """
    right = count = 0
    for x, y in samples:
        with torch.inference_mode():
            right += int((run(x).argmax(-1) == y).sum())
        count += len(y)
    if not count:
        raise ValueError("there is no sample to measure the accuracy on")
    return right / count
