"""An Hourglass MLP on digits alone, and taught by a ConvNeXt: by its logits, and by OFA-KD. Five seeds each.

    python recipes/compare_distill.py                                  a table of test accuracy, in some minutes
    python recipes/compare_distill.py --json rows.json                 and its rows
    python recipes/compare_distill.py data.shift=0 --output runs/more  all recipes changed alike

The three differ in `methods` alone. The teacher is trained once, with the seed of its recipe; the seed of a student
decides its first weights, the order of the images and how they are moved, which is the same for all three. Run again,
it trains only what is not finished.
"""

import statistics
from pathlib import Path

from zoo.training import Trainer, load_recipe
from zoo.training.runs.comparing import command

FOLDER = Path(__file__).parent / "methods"
TEACHER = FOLDER / "convnext_digits.yaml"
STUDENTS = {"alone": ["methods={}"], "distill": [], "ofa_kd": []}
SEEDS = range(5)


def recipe_of(student: str) -> Path:
    """The recipe of a student; the one that is alone has that of another, without its method."""
    return FOLDER / f"{'ofa_kd' if student == 'alone' else student}_digits.yaml"


def compare(overrides: list[str], output: Path) -> list[dict]:
    """Train the teacher, and every student with every seed: rows of ``model``, ``validation`` and ``test`` (top1)."""
    teacher = output / TEACHER.stem
    trainer = Trainer(load_recipe(TEACHER, overrides), teacher)
    rows = [{"model": "teacher", "test": [trainer.run()["test/top1"]], "validation": [_validation(trainer)]}]
    for student, changes in STUDENTS.items():
        taught = [] if changes else [f"methods.teacher.teacher={teacher}"]
        row = {"model": student, "test": [], "validation": []}
        for seed in SEEDS:
            recipe = load_recipe(recipe_of(student), [*overrides, *changes, *taught, f"train.seed={seed}"])
            trainer = Trainer(recipe, output / student / f"seed-{seed}")
            row["test"].append(trainer.run()["test/top1"])
            row["validation"].append(_validation(trainer))
        rows.append(row)
    return rows


def _validation(trainer: Trainer) -> float:
    return trainer.evaluate("validation")["validation/top1"]


def table(rows: list[dict]) -> str:
    """The rows in Markdown, with mean and standard deviation over the seeds, and what each way of teaching gains."""
    teacher, alone, *taught = rows
    lines = ["| Test accuracy, % | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean | std | validation |"]
    lines.append("|---" * (4 + len(SEEDS)) + "|")
    for row in (alone, *taught):
        values = [*row["test"], statistics.mean(row["test"]), statistics.stdev(row["test"])]
        values.append(statistics.mean(row["validation"]))
        lines.append(f"| {row['model']} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    for row in taught:
        gains = [ours - theirs for ours, theirs in zip(row["test"], alone["test"], strict=True)]
        values = [*gains, statistics.mean(gains), statistics.stdev(gains)]
        lines.append(f"| {row['model']} - alone | " + " | ".join(f"{value:.2f}" for value in values) + " | |")
    (score,) = teacher["test"]
    return "\n".join([*lines, "", f"The teacher: {score:.2f} %."])


def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    command(__doc__, compare, table, "runs/compare_distill", argv)


if __name__ == "__main__":
    main()
