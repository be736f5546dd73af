"""The folder of a run, and the only code that writes into it:

    recipe.yaml                     the resolved recipe
    metrics.jsonl                   one record a line
    checkpoints/step-00000400/      model.safetensors, optimizer.pt, and ema.safetensors if the recipe keeps an average
    model/                          the trained model, for zoo.create_model("local-dir:..."), Segmenter.open(...) or
                                    MultiTask.open(...)

A file or a checkpoint is written beside its place and renamed into it: a kill at any instant leaves the old or the new
one whole.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo
from zoo.files import replacing
from zoo.training.config import Recipe, differences, dump_recipe, load_recipe
from zoo.training.multitask import MultiTask
from zoo.training.segmenter import Segmenter

STEP = "step-" + "[0-9]" * 8
PARTIAL = ".partial"
OPTIMIZER = "optimizer.pt"
FILES = ("model.safetensors", OPTIMIZER)  # of every checkpoint; without both, a folder holds what somebody put there


class RunFolder:
    """One run's files."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"

    def open(self, recipe: Recipe) -> tuple[int, Path | None]:
        """The step and the checkpoint to go on from, or (0, None); nothing is written yet.

        Raises:
            FileExistsError: the folder holds something that is no run.
            ValueError: it holds checkpoints of another recipe; the message lists what differs.
        """
        if self.path.exists() and any(self.path.iterdir()) and not self.recipe.exists():
            raise FileExistsError(f"{self.path} is not empty and holds no recipe.yaml: choose another output folder")
        found = sorted(path for path in self.checkpoints.glob(STEP) if any((path / name).exists() for name in FILES))
        if not found:
            return 0, None
        if changed := differences(load_recipe(self.recipe), recipe):
            raise ValueError(
                f"{self.path} holds a run of another recipe ({'; '.join(changed)}): choose another output folder, "
                "or remove this one"
            )
        return int(found[-1].name.removeprefix("step-")), found[-1]

    def begin(self, recipe: Recipe, step: int) -> None:
        """Write the recipe, and drop the records that a killed run wrote after `step`, its last checkpoint."""
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.recipe) as file:
            file.write_text(dump_recipe(recipe), "utf-8")
        if self.metrics.exists():
            lines = [line for line in self.metrics.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for line in lines if (record := json.loads(line))["step"] <= step and "final" not in record]
            with replacing(self.metrics) as file:
                file.write_text("".join(kept), "utf-8")

    def log(self, record: dict[str, Any]) -> None:
        """Append one record to `metrics.jsonl`."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def save_checkpoint(self, step: int, weights: dict[str, dict[str, Tensor]], optimizer: dict[str, Any]) -> None:
        """Write a checkpoint, then remove the older ones; `weights` has one state dict a file.

        What has another name than a checkpoint, or lies within one beside its files, is somebody's own and stays.
        """
        for leftover in self.checkpoints.glob(STEP + PARTIAL):
            shutil.rmtree(leftover)
        older = [path for path in self.checkpoints.glob(STEP) if path.is_dir()]
        target = self.checkpoints / f"step-{step:08d}"
        partial = target.with_name(target.name + PARTIAL)
        partial.mkdir(parents=True)
        for name, tensors in weights.items():
            with replacing(partial / f"{name}.safetensors") as file:
                save_file({key: _alone(tensor) for key, tensor in tensors.items()}, file)
        with replacing(partial / OPTIMIZER) as file:
            torch.save(optimizer, file)
        partial.replace(target)
        written = {path.name for path in target.iterdir()}
        for path in older:
            if {file.name for file in path.iterdir()} <= written:
                shutil.rmtree(path)
            else:
                for name in written:
                    (path / name).unlink(missing_ok=True)

    def load_checkpoint(self, path: Path, names: list[str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Read what `save_checkpoint` wrote: the state dicts of these names, and the optimizer's."""
        weights = {name: load_file(path / f"{name}.safetensors") for name in names}
        return weights, torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True)

    def save_model(self, model: nn.Module) -> None:
        """Write the trained model."""
        if isinstance(model, (Segmenter, MultiTask)):
            model.save(self.model)
        else:
            zoo.save_pretrained(model, self.model)


def _alone(tensor: Tensor) -> Tensor:
    """A copy in memory of its own: safetensors refuses tensors that share it, such as tied weights."""
    return tensor.clone(memory_format=torch.contiguous_format)
