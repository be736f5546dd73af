"""Packaging: the models and the command `zoo`, with extras for what not everybody needs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "zoo" / "version.py").read_text("utf-8"), re.M).group(1)

PLOT = ["matplotlib>=3.8"]
TRAIN = [
    *("accelerate>=1.11", "jinja2>=3.1", "psutil>=5.9", "pyyaml>=6.0", "scikit-learn>=1.4", "torchmetrics>=1.9"),
    *("tqdm>=4.66", *PLOT),
]
DATA = ["braceexpand>=0.1.7", "datasets>=4.0", *TRAIN]
WATCH = ["tensorboard>=2.18", "trackio>=0.5", "wandb>=0.19"]
ATLAS = [
    *("mkdocs-material>=9.6", "mkdocstrings[python]>=1.0", "plotly>=6.0", "itables>=2.5", "pandas>=2.0"),
    *("pyyaml>=6.0", *TRAIN),
]
CONVERT = ["msgpack>=1.0"]  # for the checkpoints of V-MoE
EXPORT = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.3", "openvino>=2025.0"]
DEVICES = {"executorch": ["executorch>=1.0"], "litert": ["litert-torch>=0.10"]}
TESTS = [
    *("playwright>=1.45", "pytest>=8.0", "pytest-xdist>=3.6", "ruff>=0.6", "tensorboard>=2.18", "transformers>=4.57"),
    "webdataset>=1.0",
]
DEV = CONVERT + EXPORT + ATLAS + DATA + TESTS

setup(
    name="zoo",
    version=VERSION,
    description="Efficient PyTorch architectures: one set of blocks, every mixer in every slot, exact costs.",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["zoo", "zoo.*"]),
    package_data={
        "": ["box/*.safetensors"],
        "zoo.tools": ["models.json"],
        "zoo.tools.atlas": ["iframe-worker.js"],
        "zoo.training.watching": ["report.html.jinja"],
    },
    entry_points={"console_scripts": ["zoo=zoo.cli:main"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.9",
        "torchvision",
        "timm>=1.0.31",
        "einops>=0.8",
        "safetensors>=0.4.5",
        "huggingface_hub>=0.26",
        "tqdm>=4.66",
        "fvcore>=0.1.5.post20221221",
        "numpy>=1.26",
        "typer>=0.19",
        "rich>=13.8",
    ],
    extras_require={
        "train": TRAIN,
        "data": DATA,
        "watch": WATCH,
        "plot": PLOT,
        "convert": CONVERT,
        "export": EXPORT,
        "bench": EXPORT,
        "atlas": ATLAS,
        **DEVICES,
        "dev": DEV,
    },
)
