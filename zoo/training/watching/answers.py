"""What a trained model gets right and wrong: of classes of images, of several labels an image, of pixels."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.checks import printable
from zoo.training.data.batches import EvaluationBatches
from zoo.training.data.splits import Split
from zoo.training.evaluation import measuring, outputs_of
from zoo.training.predictions import Predictions, predict_split
from zoo.training.recipe.recipe import Recipe
from zoo.training.tasks.multilabel import MultilabelMeter
from zoo.training.watching.curves import STYLE, svg_of
from zoo.training.watching.thumbnails import class_map, thumbnail

WORST, DENSE_WORST = 24, 8  # mistakes that are shown
ROWS = 1000  # of the table of classes: of more, those that are recognised worst
NUMBERS, LARGEST = 20, 120  # classes up to which a confusion matrix has its numbers, and is drawn
LONGEST = 40  # of what says which example it is: of a path, the end
PAIRS = 15  # that are confused most

Progress = Callable[[int, int], object]


def silent(done: int, total: int) -> None:
    """Progress that nobody wants to know of."""


@dataclass
class Mistake:
    """An example: its pictures with a word under each, what is said of it, and which it is."""

    pictures: list[tuple[str, str]]
    lines: list[str]
    which: str


@dataclass
class Answers:
    """What a page says of a model on one part of the data, for one task."""

    task: str
    part: str
    examples: int
    head: tuple[str, ...] = ()  # of the table of classes
    classes: list[tuple[str, ...]] = field(default_factory=list)
    left_out: int = 0  # rows of that table
    confusion: str | None = None  # a picture
    pairs: list[tuple[str, str, int, str]] = field(default_factory=list)  # labelled, predicted, how many, share
    mistakes: list[Mistake] = field(default_factory=list)
    about: str = ""  # what the mistakes are


@dataclass(frozen=True)
class Asked:
    """A model, and the part of the data that it is asked about, of one task; `preparation` has their mean and std."""

    model: nn.Module
    recipe: Recipe
    split: Split
    part: str
    task: str = ""
    preparation: Mapping[str, Any] | None = None

    def mistake(self, index: int, lines: list[str], pictures: list[tuple[str, str]] | None = None) -> Mistake:
        """An example of the split as a mistake, by default with its own picture."""
        if pictures is None:
            pictures = [(thumbnail(self.split.fetch([index], None)[0][0], self.preparation), "")]
        which = self.split.describe(index)
        return Mistake(pictures, lines, which if len(which) <= LONGEST else f"…{which[-LONGEST:]}")


def answers_of(asked: Asked, progress: Progress = silent) -> Answers | None:
    """What a model makes of a split; None of vectors, of which there is nothing to show."""
    split = asked.split
    if split.kind == "vector":
        return None
    found = Answers(asked.task, asked.part, len(split))
    if split.kind in ("image", "labels") and _gives_classes(asked):
        predicted = predict_split(asked.model, asked.recipe, split, task=asked.task, progress=progress)
        found.examples = len(predicted.indices)
        (_of_classes if split.kind == "image" else _of_labels)(found, asked, predicted)
    else:
        _of_pixels(found, asked, progress)
    return found


def names_of(split: Split, count: int) -> list[str]:
    """The classes of a split by name, or by number where they have none."""
    return list(split.class_names) if len(split.class_names) == count else [str(number) for number in range(count)]


def _gives_classes(asked: Asked) -> bool:
    """Whether the model gives a number a class, rather than an image."""
    keywords = {"task": asked.task} if asked.task else {}
    with measuring(asked.model, asked.recipe):
        example = _example(asked, 0)[None].to(next(asked.model.parameters()).device)
        return asked.model(example, **keywords).ndim == 2


# --- A class an image -------------------------------------------------------------------------------------------------


def _of_classes(found: Answers, asked: Asked, predicted: Predictions) -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    shares, targets = predicted.outputs.softmax(-1), predicted.targets
    confidence, answer = shares.max(-1)
    count = shares.shape[1]
    names = names_of(asked.split, count)
    every = list(range(count))
    counts = confusion_matrix(targets, answer, labels=every)
    scores = precision_recall_fscore_support(targets, answer, labels=every, zero_division=np.nan)
    precision, recall, f1, support = scores
    order = np.argsort(np.nan_to_num(f1, nan=2.0), kind="stable")[:ROWS]
    found.head = ("class", "images", "precision", "recall", "F1")
    found.classes = [
        (names[i], f"{support[i]:,}", _percent(precision[i]), _percent(recall[i]), _percent(f1[i])) for i in order
    ]
    found.left_out = count - len(order)
    found.confusion = draw_confusion(counts, names) if count <= LARGEST else None
    found.pairs = _pairs(counts, names)
    found.about = "The mistakes that the model is surest of."
    wrong = (answer != targets).nonzero().flatten()
    for i in wrong[confidence[wrong].argsort(descending=True, stable=True)][:WORST].tolist():
        index, label, said = int(predicted.indices[i]), int(targets[i]), int(answer[i])
        lines = [f"said {names[said]}, {shares[i, said]:.0%}", f"is {names[label]}, {shares[i, label]:.0%}"]
        found.mistakes.append(asked.mistake(index, lines))


def _pairs(counts: np.ndarray, names: Sequence[str]) -> list[tuple[str, str, int, str]]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    rows = [divmod(int(cell), len(counts)) for cell in order]
    return [
        (names[label], names[said], int(wrong[label, said]), f"{wrong[label, said] / counts[label].sum():.1%}")
        for label, said in rows
        if wrong[label, said]
    ]


def draw_confusion(counts: np.ndarray, names: Sequence[str], percent: bool = False) -> str:
    """The confusion matrix as a picture, as a data URI.

    It is coloured by the share of each row, and has the counts, or these shares in percent, unless there are many.
    """
    import matplotlib
    from matplotlib.figure import Figure

    many = len(counts) > NUMBERS
    side = 2.0 + min(max(0.42 * len(counts), 2.5), 7.0)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):  # see `curves.draw`
        figure = Figure(figsize=(side, side * 0.92), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        ticks = np.arange(len(names))
        shown = [printable(name if len(name) <= 20 else f"{name[:8]}…{name[-11:]}") for name in names]
        size = 9 if not many else max(3.0, 200 / len(names))
        axes.set_xticks(ticks, shown, rotation=90 if max(map(len, shown)) > 2 else 0, fontsize=size, parse_math=False)
        axes.set_yticks(ticks, shown, fontsize=size, parse_math=False)
        axes.tick_params(length=0)
        axes.set(xlabel="predicted", ylabel="labelled")
        for row, column in () if many else np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.55 else "#30343b"
            number = 100 * shares[row, column] if percent else counts[row, column]
            if number >= 0.5:
                axes.text(column, row, f"{number:.0f}", ha="center", va="center", fontsize=8, color=colour)
        return svg_of(figure)


# --- Several labels an image ------------------------------------------------------------------------------------------


def _of_labels(found: Answers, asked: Asked, predicted: Predictions) -> None:
    shares, targets = predicted.outputs.sigmoid(), predicted.targets
    names, known = names_of(asked.split, shares.shape[1]), ~targets.isnan()
    meter = MultilabelMeter()
    meter.update(predicted.outputs, targets)
    tables = meter.tables()
    rows = []
    for i, name in enumerate(names):
        auc, precision = tables["class_auc"][i].item() / 100, tables["class_average_precision"][i].item() / 100
        counts = f"{int((targets[:, i] == 1).sum()):,}", f"{int(known[:, i].sum()):,}"
        rows.append((auc, (name, *counts, _percent(auc), _percent(precision))))
    rows.sort(key=lambda row: np.nan_to_num(row[0], nan=2.0))
    found.head = ("label", "with it", "images", "AUC", "average precision")
    found.classes, found.left_out = [cells for _, cells in rows[:ROWS]], max(len(rows) - ROWS, 0)
    found.about = "The labels that the model is surest of, and wrong about."
    off = (shares - targets).abs().nan_to_num(0)
    off[off < 0.5] = 0  # those are right
    values, cells = off.flatten().topk(min(WORST, off.numel()))
    for value, cell in zip(values.tolist(), cells.tolist(), strict=True):
        i, label = divmod(cell, len(names))
        if value:
            index, has = int(predicted.indices[i]), bool(targets[i, label])
            lines = [f"{names[label]}, {shares[i, label]:.0%}", "has it" if has else "has it not"]
            found.mistakes.append(asked.mistake(index, lines))


# --- Something for every pixel ----------------------------------------------------------------------------------------


def _of_pixels(found: Answers, asked: Asked, progress: Progress) -> None:
    model, recipe, split = asked.model, asked.recipe, asked.split
    objective, confusion = recipe.objectives[asked.task].task, None
    worst: list[tuple[float, int, tuple[Tensor, ...]]] = []
    found.examples = 0
    with measuring(model, recipe):
        for outputs, targets, indices in outputs_of(model, recipe, split, task=asked.task, progress=progress):
            for i, index in enumerate(indices.tolist()):
                loss = objective.loss(outputs[i : i + 1], targets[i : i + 1]).item()
                entry = loss, -index, (targets[i].cpu(), outputs[i].cpu())
                (heapq.heappush if len(worst) < DENSE_WORST else heapq.heappushpop)(worst, entry)
            found.examples += len(indices)
            if len(indices) and not targets.is_floating_point():
                cells = _cells(outputs, targets)
                confusion = cells if confusion is None else confusion + cells
    found.about = "The images with the highest loss."
    for loss, index, tensors in sorted(worst, reverse=True):
        pictures = _dense_pictures(_example(asked, -index), *tensors, asked.preparation)
        found.mistakes.append(asked.mistake(-index, [f"loss {loss:.3g}"], pictures))
    if confusion is not None:
        _of_confusion(found, confusion, names_of(asked.split, len(confusion)))


def _example(asked: Asked, index: int) -> Tensor:
    """What the model is given of an image, as with its noise."""
    task = asked.recipe.objectives[asked.task].task
    return EvaluationBatches(asked.split, task, batch_size=1, seed=asked.recipe.train.seed)[index][0][0]


def _cells(outputs: Tensor, targets: Tensor) -> np.ndarray:
    """How many pixels have each label and each prediction; labels that are no class are left out."""
    classes, answer = outputs.shape[1], outputs.argmax(1)
    valid = (targets >= 0) & (targets < classes)
    cells = targets[valid] * classes + answer[valid]
    return torch.bincount(cells, minlength=classes**2).view(classes, classes).cpu().numpy()


def _of_confusion(found: Answers, confusion: np.ndarray, names: Sequence[str]) -> None:
    both, labelled, said = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, accuracy = both / (labelled + said - both), both / labelled
    order = np.argsort(np.nan_to_num(iou, nan=2.0), kind="stable")[:ROWS]
    found.head = ("class", "pixels", "IoU", "accuracy")
    found.classes = [(names[i], f"{labelled[i]:,}", _percent(iou[i]), _percent(accuracy[i])) for i in order]
    found.left_out = len(names) - len(order)
    found.confusion = draw_confusion(confusion, names, percent=True) if len(names) <= LARGEST else None
    found.pairs = _pairs(confusion, names)


def _dense_pictures(image: Tensor, target: Tensor, output: Tensor, preparation: Any) -> list[tuple[str, str]]:
    pictures = [(thumbnail(image, preparation), "input")]
    if not target.is_floating_point():
        return [*pictures, (class_map(target), "labelled"), (class_map(output.argmax(0)), "predicted")]
    if target.ndim == 2:  # a yes or no for every pixel
        return [*pictures, (class_map(target > 0), "labelled"), (class_map(output[0] > 0), "predicted")]
    clamped = output.clamp(0, 1) if target.min() >= 0 and target.max() <= 1 else output
    return [*pictures, (thumbnail(target), "wanted"), (thumbnail(clamped), "output")]


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f}"
