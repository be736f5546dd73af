"""What the tests share: the registry's names, seeded models, checkpoints in timm's layout."""

import functools
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import zoo
from zoo.blocks.stem.lift import Lift
from zoo.blocks.token.permuted import Permuted
from zoo.registry import family_of
from zoo.timm_bridge import register_with_timm

register_with_timm(include_tests=True)  # what timm can do with a model is tried on the tiny variants

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
torch.set_num_threads(1)  # the tests run in as many processes as there are cores; threads would wait for each other
sys.path.insert(0, str(ROOT))  # for `recipes` and `benchmarks`, which are not installed

ALL_VARIANTS = zoo.list_models(include_tests=True)
FULL_VARIANTS = zoo.list_models()
TINY_VARIANTS = [name for name in ALL_VARIANTS if name.endswith("_test")]
TEST_VARIANTS = [name for name in TINY_VARIANTS if family_of(name).model.vision]  # those that take images
VECTOR_VARIANTS = [name for name in TINY_VARIANTS if name not in TEST_VARIANTS]
TIMM_VARIANTS = [
    name
    for name in FULL_VARIANTS
    if timm.is_model(name) and not timm.models.model_entrypoint(name).__module__.startswith("zoo.")
]


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state and leaves torch's settings as they were."""
    torch.manual_seed(0)
    yield
    torch.set_grad_enabled(True)


@functools.cache
def _compiles(path: Path) -> bool:
    return "torch.compile(" in path.read_text("utf-8")


@pytest.fixture(autouse=True)
def no_programs_of_other_tests(request):
    """Before a test of a file that compiles: torch allows a function so many programs, whichever test they are of."""
    if _compiles(request.path):
        torch.compiler.reset()


def sampled(names: Iterable[str], of_each_family: int) -> list:
    """Parameters of a test: of each family's names so many, drawn by a fixed seed; the others are for slow tests."""
    names = sorted(names)
    by_family: dict[str, list[str]] = {}
    for name in names:
        by_family.setdefault(family_of(name.split(".")[0]).name, []).append(name)
    chosen = set()
    for family, members in by_family.items():
        chosen |= set(random.Random(family).sample(members, min(of_each_family, len(members))))
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]


def some_of(names: Iterable[str], count: int) -> list:
    """Parameters of a test: so many of the names, drawn by a fixed seed; the others are for slow tests."""
    chosen = set(random.Random(0).sample(names := sorted(names), min(count, len(names))))
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]


def randomised(model: torch.nn.Module, std: float = 0.05) -> torch.nn.Module:
    """The model in eval mode with noise on every parameter: heads of zeros would hide differences."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=std)
    return model.eval()


def is_of_one_size(model: torch.nn.Module) -> bool:
    """Whether images of another size are refused for good: their numbers were weighted or permuted one by one."""
    return any(isinstance(module, (Lift, Permuted)) for module in model.modules())


def images(model: torch.nn.Module, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, *model.input_size)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def entries(page: str) -> dict[str, str]:
    """A generated page by its headings and by the bold names that begin a paragraph below them."""
    parts = re.split(r"^(## .*|\*\*`[^`]*`\*\*)", page, flags=re.M)
    found, heading = {"": parts[0]}, ""
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        heading = title if title.startswith("## ") else heading
        key = heading if title == heading else f"{heading}, {title}"
        assert key not in found, f"the page has {key} twice"
        found[key] = text.strip()
    return found


def assert_fresh(name: str, page: str) -> None:
    """A generated file says what the code says, of all that it has; what is newer than the file need not be there.

    So a part that is one new file or one new line leaves the tests green, and `make card` adds it to the pages.
    """
    stored, fresh = entries((ROOT / name).read_text("utf-8")), entries(page)
    assert not [key for key, text in stored.items() if fresh.get(key) != text], f"{name} is old; run `make card`"


def outside(folder: Path, package: str, files: dict[str, str]) -> Callable[..., subprocess.CompletedProcess]:
    """Writes a package that is none of zoo's and that an entry point names; gives what runs programs beside it.

    A program runs in an interpreter of its own, in `folder`, and must not fail.
    """
    for name in {f"{package}/{file}" for file in ("__init__.py", *files)}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(files.get(name.partition("/")[2], "").lstrip(), "utf-8")
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[zoo]\nany = {package}\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "OMP_NUM_THREADS": "1"}

    def run(program: str, *flags: str) -> subprocess.CompletedProcess:
        command = [sys.executable, *flags, "-c", program]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done

    return run


def losses_of_twenty_steps(path: Path, folder: Path) -> list[float]:
    """The training losses of a recipe that runs for twenty steps, one a step."""
    from zoo.training import Trainer, load_recipe  # needs zoo[train]

    overrides = ["train.duration=20st", "train.log_every=1st", "schedule.warmup=0st"]
    Trainer(load_recipe(path, overrides), folder).fit()
    records = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 20
    return losses


@pytest.fixture
def timm_checkpoint(tmp_path):
    """Makes (timm's model with random weights, a safetensors file of them in timm's layout)."""

    def make(name: str, **kwargs) -> tuple[torch.nn.Module, Path]:
        model = randomised(timm.create_model(name, **kwargs))
        path = tmp_path / f"{name}.safetensors"
        save_file(model.state_dict(), path)
        return model, path

    return make


@pytest.fixture
def make_recipe(request, tmp_path):
    """Reads the recipe that a file of tests has as its `TEXT`, with overrides."""
    from zoo.training import load_recipe  # needs zoo[train]

    path = tmp_path / "recipe.yaml"
    path.write_text(request.module.TEXT, "utf-8")
    return lambda *overrides: load_recipe(path, overrides)
