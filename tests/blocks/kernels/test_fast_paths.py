"""Where fast paths and torch's private names may stand: in `zoo/blocks/kernels/` alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import zoo

ROOT = Path(zoo.__file__).parent
KERNELS = "blocks/kernels/"
FILES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}

# What a file outside of the kernels asks all the same, and why: none of it chooses the faster of two ways to compute.
ALLOWED = {
    "bench/memory.py": {"device.type"},  # each device counts its memory in its own way
    "bench/place.py": {"device.type"},  # whether it is there
    "bench/timing.py": {"device.type"},  # a GPU is waited for
    "bench/ways.py": {"is_cuda"},  # a way that is for the CPU alone
    "blocks/kan/bases/spline.py": {"guard.takes_operators"},  # to a compiler the knots have no values yet
    "blocks/moe/collectives.py": {"guard.transformed"},  # processes cannot exchange what torch.func transforms
    "blocks/moe/dispatch.py": {"guard.recording"},  # a size must not decide what is recorded
    "blocks/moe/experts/mixers.py": {"guard.readable"},  # how many rows each expert has is a value
    "blocks/moe/layer.py": {"guard.to_onnx"},  # ONNX cannot sort: refused
    "blocks/moe/routing.py": {"guard.readable", "guard.recording"},  # the number of rows is a value
    "blocks/stem/patch.py": {"is_contiguous"},  # a resampled weight lies in memory as it did
    "blocks/moe/routers/sigmoid.py": {".dtype"},  # a buffer that must keep its precision
    "skeletons/checkpointing.py": {"guard.recording"},  # what is recorded has no second forward pass
    "skeletons/image.py": {"guard.compiling"},  # sizes become constants of the program
    "skeletons/inputs.py": {"guard.compiling", "guard.tracing"},  # checks leave nothing in a program
    "training/engine/finite.py": {"device.type"},  # a number of a GPU is waited for
    "training/engine/step.py": {"device.type"},  # whose random numbers are seeded
    "training/evaluation.py": {"device.type"},  # Apple's GPUs have no float64
    "training/tasks/meter.py": {".dtype"},  # what is added up in float64 stays so on another device
    "training/trainer.py": {"device.type"},  # whose random numbers are put back
}
PRECISIONS = {"float16", "bfloat16", "float32", "float64", "half", "float", "double"}


# Attributes that ask by themselves.
ASKING = {"is_cuda", "is_cpu", "is_mps", "is_xpu", "is_mkldnn", "is_contiguous", "mkldnn", "onednn", "usable"}


def questions(tree: ast.Module) -> Iterator[str]:
    """What a module asks about watchers, devices, precisions of numbers, or their place in memory."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "zoo.blocks.kernels.guard":
            yield from (f"guard.{alias.name}" for alias in node.names if alias.name != "bare")  # asks about a module
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "guard":
            yield f"guard.{node.attr}"
        elif isinstance(node, ast.Attribute) and node.attr in ASKING:
            yield node.attr
        elif isinstance(node, ast.Compare):
            text = ast.unparse(node)
            if "device" in text and ".type" in text and "'meta'" not in text:  # meta has shapes alone, and no path
                yield "device.type"
            sides = [side for side in (node.left, *node.comparators) if isinstance(side, ast.Attribute)]
            names = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            if "element_size" in names or (any(side.attr == "dtype" for side in sides) and names & PRECISIONS):
                yield ".dtype"


def test_only_kernels_choose_a_faster_path():
    """A block reads as its formula: on which device, in which precision and before whom is asked beside the kernel."""
    asked = {name: set(questions(tree)) for name, tree in FILES.items() if not name.startswith(KERNELS)}
    assert {name: found for name, found in asked.items() if found} == ALLOWED
