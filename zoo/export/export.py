"""Export a model, and keep the file only if it computes what the model computes."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from zoo.blocks.mixer import Part, trait
from zoo.checks import printable, shown
from zoo.create import create_model
from zoo.export.facts import facts_of, to_json
from zoo.export.formats import Format, Run, format_of, formats
from zoo.export.program import deployed, program_of, reduction_of, relative_difference, without_zeros
from zoo.export.quiet import Refused, cause
from zoo.storage.files import settle, staging, sync, telling

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
        most_samples: The largest batch that the file takes; None for no limit.
    """

    path: Path
    format: str
    facts: Mapping[str, Any]
    difference: float
    most_samples: int | None = None

    def load(self, threads: int | None = None) -> Run:
        """What runs the file on the CPU: a batch to the outputs, in parts where it is more than the file takes."""
        run, most = format_of(self.format).load(self.path, threads), self.most_samples
        return run if most is None else lambda x: torch.cat([run(part) for part in x.split(most)])


def export_model(
    model: nn.Module | str,
    path: Path | str,
    to: str = "onnx",
    *,
    dynamic_batch: bool | None = None,
    dynamic_size: bool = False,
    calibration: Iterable[Tensor] | None = None,
    name: str | None = None,
) -> Exported:
    """Export a model for another runtime: merged for inference, recorded, written, run and compared with the model.

    The file is there when all that has gone well, and not before; one that was there is then replaced. A format of
    several files writes none where one of them is. Of a model whose outputs are all zero the program is tried with
    other weights in place of those that are.

    Args:
        model: Of zoo or any other with an ``input_size``; or a name or folder for `zoo.create_model`, with its weights
            where it has such.
        path: The file to be written. A path without a suffix gets that of the format.
        to: A format of `zoo.export.formats`: ``onnx``, ``exported``, ``aoti``, ``openvino``, ….
        dynamic_batch: Take batches of any size, or of one sample alone; by default of any size where the format can.
        dynamic_size: Take images whose sides are two or more times the model's reduction, up to 4,096 pixels.
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
    if dynamic_batch and not form.open_batch:
        raise ValueError(f"a file of {to} takes batches of one size alone; leave dynamic_batch out")
    if calibration is not None and not form.quantises:
        small = " or ".join(name for name, each in formats().items() if each.quantises)
        raise ValueError(f"the format {to} has no form in 8 bits here; export to {small} for that")
    dynamic_batch = form.open_batch if dynamic_batch is None else dynamic_batch
    most = form.most_samples if dynamic_batch else 1
    path = _path(path, form)
    model = create_model(model) if isinstance(model, str) else model
    _check_portable(model, form)
    facts = facts_of(model, name)
    if not facts["input_size"]:
        raise ValueError(f"{type(model).__name__} does not tell its input size; set model.input_size = (C, H, W)")
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError(f"{facts['model']} is on meta and has no weights; create it on another device")
    model = deployed(model).cpu()
    inputs = _inputs(model, facts["input_size"], dynamic_batch, dynamic_size)
    sizes = {"batch": dynamic_batch, "most_samples": form.most_samples, "size": dynamic_size}

    def record(model: nn.Module) -> ExportedProgram:
        return program_of(model, inputs[0], **sizes, layout=form.transposes)

    def written(model: nn.Module, file: Path) -> Path:
        file.parent.mkdir(exist_ok=True)
        form.write(record(model), file, to_json(facts))
        return file

    with telling(path), staging(path.parent) as stage, _as_sentences(facts["model"], to):
        # Where all outputs are zero, as of a head that begins so, only other weights can show what the program is.
        silent = not any(_outputs_of(model, x).any() for x in inputs)
        tried = without_zeros(copy.deepcopy(model)) if silent else model
        difference = compared(tried, form.load(written(tried, stage / "tried" / path.name)), inputs)
        new = written(model, stage / "new" / path.name) if silent else stage / "tried" / path.name
        if calibration is not None:
            exact, new = new, stage / "int8" / path.name
            new.parent.mkdir()
            parts = (part for batch in calibration for part in batch.split(most or len(batch)))
            form.quantise(exact, new, parts, model, record)
            difference = compared(model, form.load(new), inputs, math.inf)
        for file in [*(new.with_suffix(suffix) for suffix in form.beside), new]:  # the file itself last
            settle(file)
            file.replace(path.with_suffix(file.suffix))
        sync(path.parent)
    return Exported(path, to, facts, difference, most)


def _path(path: Path | str, form: Format) -> Path:
    """The file to be written.

    Raises:
        ValueError: It has another suffix than files of the format, or is there where several files cannot be replaced.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise ValueError(f"{printable(path, 500)} is a folder; give the name of a file, ending in {form.suffix}")
    path = path if path.suffix else path.with_name(path.name + form.suffix)
    if path.suffix != form.suffix:
        raise ValueError(
            f"{printable(path, 500)} does not end in {form.suffix}, as files of {form.name} do; give it that end"
        )
    for suffix in (form.suffix, *form.beside) if form.beside else ():  # several files cannot be replaced at once
        if path.with_suffix(suffix).exists():
            raise ValueError(
                f"{printable(path.with_suffix(suffix), 500)} is there, and a file of {form.name} has a "
                f"{', a '.join((form.suffix, *form.beside))}: choose another name, or remove it"
            )
    return path


@contextmanager
def _as_sentences(model: str, to: str) -> Iterator[None]:
    """Turn whatever a converter or a runtime may raise into a ValueError; a disk's errors stay what they are."""
    try:
        yield
    except OSError:
        raise
    except Refused as error:  # it knows what is wrong, not always of what
        raise Refused(f"{model} in {to}: {error}") from error.__cause__
    except Exception as error:
        raise ValueError(f"{model} cannot be brought into {to}: {cause(error)}; export it to another format") from error


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


def _outputs_of(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        outputs = model(x)
    if not isinstance(outputs, Tensor):
        raise Refused(
            f"{type(model).__name__} gives a {type(outputs).__name__}; wrap it in a module that gives one tensor"
        )
    return outputs


def compared(model: nn.Module, run: Run, inputs: list[Tensor], tolerance: float = TOLERANCE) -> float:
    """The largest difference of what a file computes from the model's outputs, relative to the largest of these.

    Raises:
        ValueError: It is larger than a tolerance, or the outputs have another shape.
    """
    worst = 0.0
    for x in inputs:
        expected, outputs = _outputs_of(model, x), run(x)
        if outputs.shape != expected.shape:
            raise Refused(
                f"of inputs {shown(tuple(x.shape))} the file makes outputs {shown(tuple(outputs.shape))}, not "
                f"{shown(tuple(expected.shape))} as the model does; nothing was written: export it to another format"
            )
        difference = relative_difference(outputs, expected)
        if not difference <= tolerance:  # nor is what is no number
            raise Refused(
                f"what the file computes differs from the model by {difference:.1e} of its largest output, more than "
                f"{tolerance:.0e}; nothing was written: export it to another format"
            )
        worst = max(worst, difference)
    return worst
