"""Torch's private names stand in one file, and models compute the same where torch has one of them no longer."""

import ast
import importlib
import pkgutil
import re
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import randomised, relative_error
from timm.layers import set_reentrant_ckpt
from torch import nn
from torch.autograd import forward_ad
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.blocks.base import parameters_without_decay
from zoo.blocks.kernels import guard, onednn, private, windows

ROOT = Path(zoo.__file__).parent
NAMES = [*private.NAMES]

# --- Where they stand -------------------------------------------------------------------------------------------------

# Ways to extend a module, and the dictionaries that every pickled module has (see `zoo.blocks.kernels.private`).
OF_MODULES = {
    *("_apply", "_load_from_state_dict"),
    *("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"),
}
CLASSES = (torch.Tensor, torch.optim.Optimizer, DistributedDataParallel)
OF_INSTANCES = {name for cls in CLASSES for name in dir(cls)} | {*dir(nn.Module()), *vars(nn.Module())}


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def chain(node: ast.AST) -> str | None:
    """``a.b.c`` of an attribute of an attribute of a name."""
    if isinstance(node, ast.Name):
        return node.id
    inner = chain(node.value) if isinstance(node, ast.Attribute) else None
    return None if inner is None else f"{inner}.{node.attr}"


def private_names(tree: ast.Module) -> set[str]:
    """The private names of torch and timm that a module says."""
    roots, said = {}, set()
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                path = alias.name if alias.asname else alias.name.partition(".")[0]
                roots[alias.asname or path] = path
        elif isinstance(node, ast.ImportFrom) and node.module:
            roots |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (name := chain(node.value)) and len(node.targets) == 1:
            root, _, rest = name.partition(".")
            if root in roots and isinstance(node.targets[0], ast.Name):
                roots.setdefault(node.targets[0].id, f"{roots[root]}.{rest}")
    roots = {name: path for name, path in roots.items() if path.split(".")[0] in ("torch", "timm")}
    said |= {path for path in roots.values() if is_private(path)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = (chain(node) or "").partition(".")
            if root in roots and is_private(rest):
                said.add(f"{roots[root]}.{rest}")
            elif is_private(node.attr) and node.attr in OF_INSTANCES - OF_MODULES:
                said.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            if re.search(r"\b(torch|timm)(\.\w+)*\._[a-zA-Z]", node.value):
                said.add(node.value)
        elif isinstance(node, ast.Call) and chain(node.func) == "getattr" and isinstance(node.args[1], ast.Constant):
            root = (chain(node.args[0]) or "").partition(".")[0]
            if root in roots and is_private(node.args[1].value):
                said.add(node.args[1].value)
    return said


def test_one_file_says_private_names():
    """And none of timm's: a second place would go without a way around."""
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in ROOT.rglob("*.py")}
    said = {name: private_names(tree) for name, tree in trees.items()}
    assert [name for name, names in said.items() if names] == ["blocks/kernels/private.py"]
    assert not any("timm" in name for name in said["blocks/kernels/private.py"])


@pytest.mark.parametrize(
    "line",
    [
        "import torch\ntorch._C._len_torch_dispatch_stack()",
        "from torch.utils import _pytree",
        "from torch.utils._python_dispatch import TorchDispatchMode",
        "import torch\naten = torch.ops.aten\naten._softmax_backward_data(1)",
        "import torch.nn.functional as F\nF._canonical_mask(1)",
        "from timm.models._helpers import load_state_dict",
        "x._version",
        "model._backward_hooks",
        "f('torch._dynamo')",
        "import torch\ngetattr(torch, '_grouped_mm', None)",
    ],
)
def test_private_names_are_seen(line):
    assert private_names(ast.parse(line))


# --- Without them -----------------------------------------------------------------------------------------------------

CONVOLVED, SHIFTED, MIXED = "unireplknet_test", "swin_test", "vmoe_test"


@pytest.fixture(scope="module", autouse=True)
def everything_fast():
    """Small tensors take the fast paths too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onednn, "LEAST_MACS", dict.fromkeys(onednn.LEAST_MACS, 1))
        patch.setattr(windows, "SCORES", 1)
        yield


@contextmanager
def losing(*names: str) -> Iterator[None]:
    """Within it torch has these names no longer."""
    find = pkgutil.resolve_name

    def resolve(asked: str):
        if asked in names:
            raise AttributeError(f"torch has no {asked}")
        return find(asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pkgutil, "resolve_name", resolve)
        _reload()
        try:
            yield
        finally:
            patch.undo()
            _reload()


@pytest.fixture
def lost(request):
    with losing(request.param):
        yield request.param


def _reload() -> None:
    importlib.reload(private)
    importlib.reload(guard)
    onednn._available.cache_clear()


def costs_of(model: nn.Module) -> tuple:
    report = zoo.count_flops(model)  # operators have other names where the other engine counts
    return report.macs, report.by_module


def observed() -> dict:
    """What models compute, in every way that asks for a private name."""
    seen = {}
    for name in (CONVOLVED, SHIFTED, MIXED):
        torch.manual_seed(0)
        model = randomised(zoo.create_model(name))
        x = torch.randn(2, *model.input_size)
        seen[f"{name} decay"] = parameters_without_decay(model)
        with torch.no_grad():
            seen[f"{name} inference"] = model(x)
            seen[f"{name} samples"] = torch.func.vmap(lambda x, model=model: model(x[None])[0])(x)
            _, seen[f"{name} tangent"] = torch.func.jvp(model, (x,), (torch.ones_like(x),))
            with FlopCounterMode(display=False) as counter:
                model(x)
            seen[f"{name} counter"] = counter.get_total_flops()
        for reentrant in (False, True):
            seen[f"{name} gradients, reentrant={reentrant}"] = checkpointed_gradients(model, x, reentrant)
        seen[f"{name} statistics"] = [b.clone() for b in model.buffers() if b.is_floating_point()]
    half = randomised(zoo.create_model(SHIFTED)).bfloat16()
    loss = half(torch.randn(2, *half.input_size).bfloat16()).float().square().sum()
    table = next(p for name, p in half.named_parameters() if name.endswith("relative_position_bias_table"))
    seen["half"] = torch.autograd.grad(loss, table)[0].float()  # it comes through softmax alone
    mixer, x, leaf = zoo.create_block("channel_mixer", "gr_kan", 4), torch.ones(3, 4), torch.ones(3, requires_grad=True)
    y = mixer(x).sum(1) * leaf
    seen["batched"] = torch.autograd.grad(y, [*mixer.parameters()], torch.eye(3), is_grads_batched=True)[0]
    with forward_ad.dual_level():
        seen["dual"] = forward_ad.unpack_dual(mixer(forward_ad.make_dual(x, torch.ones(3, 4)))).tangent
    return seen


def checkpointed_gradients(model: nn.Module, x: torch.Tensor, reentrant: bool) -> torch.Tensor:
    set_reentrant_ckpt(reentrant)
    try:
        model.set_grad_checkpointing(True)
        model.zero_grad()
        y, aux = model.train()(x.clone().requires_grad_(), return_aux=True)
        (y.square().sum() + sum(v for k, v in aux.items() if k.startswith("loss/"))).backward()
    finally:
        set_reentrant_ckpt(False)
        model.set_grad_checkpointing(False)
        model.eval()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.fixture(scope="module")
def expected(everything_fast):
    torch.manual_seed(0)
    return observed()


OF_COSTS = [name for name in NAMES if re.search("ispatch(_tls|_key|Key|Mode)|_convolution|aoti", name)]
OF_DDP = [name for name in NAMES if "DistributedDataParallel" in name]


@pytest.mark.parametrize("lost", [name for name in NAMES if name not in OF_COSTS + OF_DDP], indirect=True)
def test_models_compute_the_same_without_a_name(lost, expected):
    torch.manual_seed(0)
    for key, found in observed().items():
        if isinstance(found, torch.Tensor):
            assert relative_error(found, expected[key]) < (0.05 if key == "half" else 1e-4), key
        elif isinstance(found, list):
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected[key], strict=True)), key
        else:
            assert found == expected[key], key


def test_costs_are_the_same_without_a_name():
    model = zoo.create_model(CONVOLVED)
    known = costs_of(model)
    for name in NAMES:
        with losing(name):
            assert costs_of(model) == known, name


def test_ddp_is_refused_where_it_cannot_leave_experts_alone():
    assert callable(private.exclude_from_ddp())
    with losing(*OF_DDP), pytest.raises(RuntimeError, match="no call that keeps DDP away .*zoo.expert_parallel"):
        private.exclude_from_ddp()


def test_without_a_count_of_versions_nothing_is_remembered():
    x = torch.ones(2)
    version = private.version(x)
    x += 1
    assert private.version(x) == version + 1
    with torch.inference_mode():
        assert private.version(torch.ones(2)) is None  # of these torch does not count
    with losing("torch.Tensor._version"):
        assert private.version(x) is None


def test_structures_come_back_without_torchs_trees():
    """As with them: nested, empty, and with names."""
    Pair = namedtuple("Pair", "a b")
    tree = {"x": [1, (2, None)], "empty": {}, "pair": Pair(3, [])}
    for names in ((), ("torch.utils._pytree",)):
        with losing(*names):
            leaves, layout = private.tree_flatten(tree)
            again = private.tree_unflatten([leaf and 10 * leaf for leaf in leaves], layout)
        assert leaves == [1, 2, None, 3]
        assert again == {"x": [10, (20, None)], "empty": {}, "pair": Pair(30, [])} and type(again["pair"]) is Pair
