"""The same pictures as a folder, a table, a data set of Hugging Face's, and shards."""

import csv
import io
import tarfile

import pytest

from zoo.training.data.csv_table import CsvTable
from zoo.training.data.image_folder import ImageFolder
from zoo.training.data.web_dataset import WebDataset

SETS = ("image_folder", "csv", "hf_dataset", "webdataset")
Pictures = dict[str, list[tuple[str, bytes | None, int]]]  # of each part: name of the file, content, class


def as_folder(root, parts: Pictures, **options):
    for part, pictures in parts.items():
        for name, content, label in pictures:
            path = root / part / f"class{label}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.symlink_to("nowhere.png")
            else:
                path.write_bytes(content)
    return ImageFolder(root=str(root), **options)


def as_table(root, parts: Pictures, **options):
    (root / "files").mkdir(parents=True)
    with open(root / "table.csv", "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["image", "label", "split"])
        for part, pictures in parts.items():
            for name, content, label in pictures:
                lines.writerow([f"{part}-{name}", f"class{label}", part])
                if content is not None:
                    (root / "files" / f"{part}-{name}").write_bytes(content)
    return CsvTable(file=str(root / "table.csv"), root=str(root / "files"), split="split", **options)


def as_hf(root, parts: Pictures, **options):
    datasets = pytest.importorskip("datasets")
    from zoo.training.data.hf_dataset import HfDataset

    datasets.disable_progress_bars()
    tables = datasets.DatasetDict({part: hf_table(pictures) for part, pictures in parts.items()})
    tables.save_to_disk(str(root))
    return HfDataset(path=str(root), **options)


def hf_table(pictures):
    import datasets

    names = [f"class{number}" for number in range(1 + max(label for *_, label in pictures))]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    images = [None if content is None else {"bytes": content, "path": None} for _, content, _ in pictures]
    return datasets.Dataset.from_dict({"image": images, "label": [label for *_, label in pictures]}, features=features)


def as_shards(root, parts: Pictures, **options):
    for part, pictures in parts.items():
        samples = [(name, content, str(label).encode()) for name, content, label in pictures]
        half = (len(samples) + 1) // 2
        for number, some in enumerate((samples[:half], samples[half:])):
            write_shard(root / f"{part}-{number:06}.tar", some)
    patterns = {part: str(root / f"{part}-*.tar") for part in parts}
    return WebDataset(shards=patterns.pop("train"), **patterns, **options)


def write_shard(path, samples, ending="cls"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content, label in samples:
            stem = name.partition(".")[0]
            for member, data in ((name, content), (f"{stem}.{ending}", label)):
                if data is not None:
                    entry = tarfile.TarInfo(member)
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))


WRITERS = dict(zip(SETS, (as_folder, as_table, as_hf, as_shards), strict=True))
