"""A model that another one learns from: it is opened, frozen, and asked; no checkpoint has it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checks import printable, shown
from zoo.create import create_model
from zoo.skeletons.image import ImageModel
from zoo.training.methods.base import Setting
from zoo.training.runs.folder import RunFolder
from zoo.training.runs.measuring import open_trained, recipe_of
from zoo.training.seeds import seeded_globals


class Teacher:
    """A frozen model in evaluation mode, that computes in the recipe's precision and keeps nothing for a gradient.

    It is no module, so that what holds it neither trains nor saves it.

    Args:
        name: Folder of a run, of which it is the trained model; folder of a model, of `zoo.save_pretrained`; or what
            `zoo.create_model` takes.
        kwargs: Arguments of `zoo.create_model` with a name.
        setting: The training; its seed gives the weights of a model that is created without any.
        key: Where the recipe has the name, for messages.

    Raises:
        ValueError: It is no model of the zoo that gives numbers for the images of the training data.
        FileNotFoundError: The folder is not there, or the run has saved no model yet.
    """

    def __init__(self, name: str, kwargs: dict[str, Any], setting: Setting, key: str):
        self.key, self.setting = key, setting
        setting.teachers.append(self)
        try:
            with seeded_globals(setting.seed):
                self.model = _open(name, kwargs, key).eval().requires_grad_(False).to(setting.device)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{key}: {error}") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{key}: {error}") from error
        try:
            self.width = self.logits(setting.example()).shape[-1]  # numbers that it gives for an image
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"{key}: {shown(name)} cannot take the images that the model is trained on ({printable(error, 500)}): "
                f"take another, or give it img_size and in_chans by {key}_kwargs"
            ) from error

    def digest(self) -> str:
        """Of its weights, which a run that goes on must find as they were."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """What it gives for images, in float32."""
        with self.setting.autocast():
            return self.model(inputs).float()

    @torch.no_grad()
    def maps(self, inputs: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """Its feature maps ``(B, H, W, C)`` of some levels."""
        with self.setting.autocast():
            return self.feature_model().forward_intermediates(
                inputs, indices=levels, output_fmt="NHWC", intermediates_only=True, stop_early=True
            )

    def feature_model(self) -> ImageModel:
        """The model, which has feature maps.

        Raises:
            ValueError: It has none.
        """
        if not isinstance(self.model, ImageModel):
            raise ValueError(f"{self.key}: {type(self.model).__name__} gives no feature maps: take a plain image model")
        return self.model

    def check_classes(self) -> None:
        """Check that it knows the classes of the training data.

        Raises:
            ValueError: It has another number of them.
        """
        if self.width != self.setting.split.num_classes:
            raise ValueError(
                f"{self.key}: it has {self.width} classes, the data {self.setting.split.num_classes}: take one that "
                "was trained on them"
            )


def _open(name: str, kwargs: dict[str, Any], key: str) -> nn.Module:
    path = Path(name)
    if not path.is_dir():
        if ":" not in name and ("/" in name or "\\" in name):
            raise FileNotFoundError(f"there is no folder {printable(path)}: give that of a run or of a model")
        return create_model(name, **kwargs)
    if kwargs:
        raise ValueError(f"a model in a folder is built as it was saved: remove {key}_kwargs")
    run = RunFolder(path)
    if not run.recipe.is_file():
        return create_model(f"local-dir:{path}")
    if not run.model.is_dir():
        raise FileNotFoundError(f"{printable(path)} has no trained model yet: train it to its end")
    return open_trained(run.model, recipe_of(run))
