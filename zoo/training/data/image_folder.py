"""Pictures in folders, a folder a class.

timm's reader of folders is not used, for what `zoo.training.data.pictures` says of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from zoo.checks import printable, shown, some
from zoo.training.data.picture_set import PictureSet
from zoo.training.data.picture_split import Files, Part, PictureSplit
from zoo.training.data.pictures import check_links, class_folders, find_pictures


@dataclass(frozen=True)
class ImageFolder(PictureSet):
    """A folder `root/{train,validation,test}/<class>/**/<picture>`, augmented and normalised by timm.

    The classes are the folders of `train`; `val` is taken for `validation`, and `test` may be absent. So may
    `validation`, which then is a share of `train`, drawn once for good; and the folders of the classes may lie in
    `root` itself. The options are those of `PictureSet`.
    """

    name: ClassVar[str] = "image_folder"
    paths: ClassVar[tuple[str, ...]] = ("root",)
    root: str  # the folder

    def load(self) -> dict[str, PictureSplit]:
        folders = self._folders()
        classes = class_folders(folders["train"])
        class_map = {name: index for index, name in enumerate(classes)}
        for folder in folders.values():
            if unknown := set(class_folders(folder)) - set(classes):
                train = printable(folders["train"], 500)
                raise ValueError(f"{printable(folder, 500)} has classes that {train} has not: {some(sorted(unknown))}")
        samples = {part: find_pictures(folder, class_map) for part, folder in folders.items()}
        filled = {label for _, label in samples["train"]}
        if empty := [name for name, label in class_map.items() if label not in filled]:
            train = printable(folders["train"], 500)
            raise ValueError(f"{train} has classes without a picture: {some(empty)}; fill them or remove them")
        for part, folder in folders.items():
            if not samples[part]:
                raise ValueError(f"{printable(folder)} has no picture in its class folders: fill it or remove it")
        splits = self.splits(
            {
                part: Part(Files(), [path for path, _ in pairs], torch.tensor([label for _, label in pairs]))
                for part, pairs in samples.items()
            },
            tuple(classes),
            printable(self.root, 500),
        )
        check_links({part: split.samples for part, split in splits.items()})
        return splits

    def _folders(self) -> dict[str, Path]:
        root = Path(self.root)
        if (root / "val").is_dir() and (root / "validation").is_dir():
            raise ValueError(
                f"data.root {shown(self.root)} holds both val/ and validation/: remove or rename one of them"
            )
        names = {"train": "train", "validation": "val" if (root / "val").is_dir() else "validation", "test": "test"}
        folders = {part: root / name for part, name in names.items() if (root / name).is_dir()}
        if not folders and len(class_folders(root)) > 1:
            return {"train": root}
        if "train" not in folders or not class_folders(folders["train"]):
            raise FileNotFoundError(
                f"data.root {shown(self.root)} must hold train/<class>/ and validation/<class>/ folders, of which the "
                "latter may be absent, or at least two <class>/ folders"
            )
        return folders
