"""Export a model, and keep the file only if it computes what the model computes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.blocks.mixer import Part, trait
from zoo.checks import in_a_line, printable, shown
from zoo.create import create_model
from zoo.export.facts import facts_of, to_json
from zoo.export.formats import Format, Run, format_of
from zoo.export.program import deployed, program_of, reduction_of
from zoo.storage.files import settle, staging, sync

TOLERANCE = 1e-4  # the largest difference of an output, relative to the largest output
ODD = 3  # samples of the second batch that a file is tried with


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        format: The name of its format.
        facts: What was written into it, see `zoo.export.facts_of`.
        difference: The largest difference of an output from the model's, relative to its largest output, over all
            batches that were tried; at most 1e-4, but for a file in 8 bits.
    """

    path: Path
    format: str
    facts: Mapping[str, Any]
    difference: float

    def load(self, threads: int | None = None) -> Run:
        """What runs the file on the CPU: a batch to the outputs."""
        return format_of(self.format).load(self.path, threads)


def export_model(
    model: nn.Module | str,
    path: Path | str,
    to: str = "onnx",
    *,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    calibration: Iterable[Tensor] | None = None,
    name: str | None = None,
) -> Exported:
    """Export a model for another runtime: merged for inference, recorded, written, run and compared with the model.

    The file is there when all that has gone well, and not before; one that was there is then replaced.

    Args:
        model: Of zoo or any other with an ``input_size``; or a name or folder for `zoo.create_model`, with its weights
            where it has such.
        path: The file to be written. A path without a suffix gets that of the format.
        to: A format of `zoo.export.formats`: ``onnx``, ``exported``, ``aoti``, ``openvino``, ….
        dynamic_batch: Take batches of any size; else of one sample alone.
        dynamic_size: Take images of any size that is a multiple of the model's reduction.
        calibration: Batches of inputs such as the model will see, some hundred samples: the file then has its products
            in 8 bits (`zoo.export.accuracy` measures what that costs).
        name: What the file calls the model, in place of its architecture.

    Returns:
        The path, the facts that travel in the file, and by how much the outputs differ.

    Example:
        >>> import tempfile, zoo
        >>> folder = Path(tempfile.mkdtemp())
        >>> done = export_model(zoo.create_model("mixer_test"), folder / "mixer", "exported")
        >>> done.path.name, done.difference < 1e-4, done.load()(torch.zeros(5, 3, 32, 32)).shape
        ('mixer.pt2', True, torch.Size([5, 10]))

    Raises:
        ValueError: There is no such format, or it is not installed; the model cannot be brought into it; or the file
            computes something else than the model. The message says why, and what to do.
        TypeError: The model is none.
    """
    form = format_of(to)
    if not isinstance(model, (str, nn.Module)):
        raise TypeError(f"model is a {type(model).__name__}; give a module, or a name or folder for zoo.create_model")
    model = create_model(model) if isinstance(model, str) else model
    path = Path(path)
    path = path if path.suffix else path.with_name(path.name + form.suffix)
    if path.suffix != form.suffix:
        raise ValueError(f"{printable(path, 500)} does not end in {form.suffix}, as files of {to} do; rename it")
    _check_portable(model, form)
    for beside in form.beside if path.exists() else ():
        raise ValueError(
            f"{printable(path, 500)} is there, and its {beside} beside it; choose another name, or remove both"
        )
    size = getattr(model, "input_size", None)
    if not size:
        raise ValueError(f"{type(model).__name__} does not tell its input size; set model.input_size = (C, H, W)")
    model, facts = deployed(model).cpu(), facts_of(model, name)
    inputs = _inputs(model, tuple(size), dynamic_batch, dynamic_size)
    sizes = {"batch": dynamic_batch, "most_samples": form.most_samples, "size": dynamic_size}
    program = program_of(model, inputs[0], **sizes, layout=form.transposes)
    with staging(path.parent) as stage:
        new = stage / path.name
        try:
            form.write(program, new, to_json(facts))
        except Exception as error:  # whatever a converter may raise
            raise ValueError(
                f"{facts['model']} cannot be brought into {to}: {in_a_line(error)}; export it to another format, such "
                "as exported"
            ) from error
        difference = compared(model, form.load(new), inputs)
        if difference > TOLERANCE:
            raise ValueError(
                f"{facts['model']} in {to} differs from the model by {difference:.1e} of its largest output, more than "
                f"{TOLERANCE:.0e}; nothing was written: export it to another format"
            )
        if calibration is not None:
            new, exact = stage / "int8" / path.name, new
            new.parent.mkdir()
            form.quantise(exact, new, calibration)
            difference = compared(model, form.load(new), inputs)
        for written in [*(new.with_suffix(suffix) for suffix in form.beside), new]:  # the file itself last
            settle(written)
            written.replace(path.with_suffix(written.suffix))
        sync(path.parent)
    return Exported(path, to, facts, difference)


def _check_portable(model: nn.Module, form: Format) -> None:
    """Refuse what needs operators that only torch has."""
    for name, module in model.named_modules():
        reason = None if form.of_torch else trait(module, "only_torch", Part)
        if reason:
            raise ValueError(
                f"{name} ({type(module).__name__}) cannot be exported to {form.name}: {reason}; export to exported or "
                "aoti, which have all of torch's operators, or exchange it for another mixer"
            )


def _inputs(model: nn.Module, size: tuple[int, ...], batch: bool, images: bool) -> list[Tensor]:
    """Batches that a file is recorded and tried with: of two samples, of one and of some more, and larger images."""
    shapes = [(n, *size) for n in ((2, 1, ODD) if batch else (1,))]
    if images:
        step = reduction_of(model)
        channels, height, width = size
        rounded = tuple(max(2, -(-side // step)) * step for side in (height, width))
        shapes = [(n, channels, *rounded) for n, *_ in shapes]
        shapes.append((shapes[0][0], channels, rounded[0] + step, rounded[1] + 2 * step))
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def compared(model: nn.Module, run: Run, inputs: list[Tensor]) -> float:
    """The largest difference of what a file computes from the model's outputs, relative to the largest of these."""
    worst = 0.0
    for x in inputs:
        with torch.inference_mode():
            expected = model(x)
        found = run(x)
        if found.shape != expected.shape:
            raise ValueError(
                f"of inputs {shown(tuple(x.shape))} the file makes outputs {shown(tuple(found.shape))}, not "
                f"{shown(tuple(expected.shape))} as the model does; nothing was written: export it to another format"
            )
        worst = max(worst, ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item())
    return worst
