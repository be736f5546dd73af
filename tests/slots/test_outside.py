"""A package from outside the tree, one file a part: each is known by its name to slots, models, pages and folders."""

import functools

import pytest
import torch
from conftest import outside

PARTS = {
    "mixer": '''
"""A token mixer."""

from torch import nn

from zoo.blocks.linear import Linear, linear
from zoo.blocks.mixer import Mixer
from zoo.slots import register_block


@register_block("token_mixer", "roll")
class Roll(Mixer):
    """Each position moved by one, and a map over the channels."""

    follows = ("init", "drop")

    def __init__(self, dim: int, *, step: int = 1, drop: float = 0.0, init="trunc_normal", device=None, dtype=None):
        super().__init__()
        self.step, self.drop = step, nn.Dropout(drop)
        self.fc = Linear(dim, dim, init=init, device=device, dtype=dtype)

    def forward(self, x):
        return self.drop(linear(x.roll(self.step, 1), self.fc))
''',
    "router": '''
"""A router: every token to the experts of the greatest logits, with equal weights."""

import torch

from zoo.blocks.moe.routers.top_k import TopK
from zoo.slots import register_block


@register_block("router", "equal")
class Equal(TopK):
    """Top-k with equal weights."""

    def logits(self, x, **keywords):
        return super().logits(x, **keywords).sign()
''',
    "basis": '''
"""A basis of learnt functions: powers."""

import torch

from zoo.blocks.kan.bases.base import Basis
from zoo.slots import register_block


@register_block("basis", "powers")
class Powers(Basis):
    """The powers of the tangent hyperbolic, from 1 to `count`."""

    macs = 1

    def __init__(self, features: int, *, count: int = 3, device=None, dtype=None):
        super().__init__(features)
        self.num = count

    def values(self, x):
        return torch.stack([x.tanh() ** (i + 1) for i in range(self.num)], dim=-2)
''',
    "head": '''
"""A head: cosine similarities."""

import torch
from torch import nn
from torch.nn import functional as F

from zoo.slots import register_block


@register_block("head", "cosine")
class Cosine(nn.Module):
    """Logits that are cosines of the angles to a vector a class."""

    def __init__(self, dim: int, num_classes: int, *, scale: float = 10.0, device=None, dtype=None):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(num_classes, dim, device=device, dtype=dtype))

    def forward(self, x):
        return self.scale * F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))
''',
    "stem": '''
"""A stem: pixels without a convolution."""

from torch import nn
from torch.nn import functional as F

from zoo.blocks.linear import Linear
from zoo.slots import register_block


@register_block("stem", "shuffle")
class Shuffle(nn.Module):
    """The pixels of each square, mapped linearly."""

    stride = 4

    def __init__(self, in_chans: int, dim: int, *, init="torch", device=None, dtype=None):
        super().__init__()
        self.fc = Linear(in_chans * 16, dim, init=init, device=device, dtype=dtype)

    def grid(self, img_size):
        return img_size[0] // 4, img_size[1] // 4

    def forward(self, x):
        return self.fc(F.pixel_unshuffle(x, 4).permute(0, 2, 3, 1))
''',
    "scheme": '''
"""A scheme of initialisation: orthogonal matrices."""

from dataclasses import dataclass

from torch import nn

from zoo.blocks.init import Scheme
from zoo.slots import register_block


@register_block("init", "orthogonal")
@dataclass(frozen=True, kw_only=True)
class Orthogonal(Scheme):
    """Orthogonal matrices times a gain."""

    gain: float = 1.0

    def fill_weight(self, weight):
        nn.init.orthogonal_(weight, self.gain)
''',
    "kind": '''
"""A kind of block of its own, and a block of it."""

from torch import nn

from zoo.slots import register_block
from zoo.slots.table import Kind, declare

declare(Kind("memory", "What a package of one's own has between its blocks.", optional=True))


@register_block("memory", "last")
class Last(nn.Identity):
    """Keeps what it was given."""
''',
}

CODE = """
import torch, zoo

for kind, name in {blocks}.items():
    assert name in zoo.list_blocks(kind), (kind, zoo.list_blocks(kind))
    assert name in str(zoo.block_info(kind, name))
model = zoo.create_model(
    "vit_test", token_mixer={{"every": {{2: "roll(step=2)"}}}}, channel_mixer=["kan(basis='powers(count=2)')",
    "moe(num_experts=3, top_k=2, router='equal')", "mlp"], head="cosine(scale=5)", stem="shuffle",
    init="orthogonal(gain=0.5)", class_token=False, global_pool="avg", img_size=16, proj_drop_rate=0.1,
)
roll, mlp = model.blocks[1].token_mixer, model.blocks[2].channel_mixer
assert (roll.step, roll.drop.p, model.head.scale) == (2, 0.1, 5)
square = mlp.fc1.weight.T @ mlp.fc1.weight
assert torch.allclose(square, 0.25 * torch.eye(len(square)), atol=1e-5)
assert model.blocks[0].channel_mixer.fc1.basis.num == 2
x = torch.randn(2, 3, 16, 16)
y, aux = model(x, return_aux=True)
y.sum().backward()
assert y.shape == (2, 10) and "loss/balance" in aux
model.eval()
zoo.save_pretrained(model, "saved")
assert torch.equal(zoo.create_model("local-dir:saved").eval()(x), model(x))
pyramid = zoo.create_model("poolformer_test", stem="shuffle", head="cosine", token_mixer="roll", img_size=64)
assert pyramid(torch.randn(1, 3, 64, 64)).shape == (1, 10)
assert zoo.create_block("memory", "last") is not None and zoo.create_block("memory", "none") is None
print("outside")
"""

KINDS = {
    "token_mixer": "roll",
    "router": "equal",
    "basis": "powers",
    "head": "cosine",
    "stem": "shuffle",
    "init": "orthogonal",
    "memory": "last",
}


@pytest.fixture
def run(tmp_path):
    """Runs code beside a package of some parts; gives what was printed."""

    def run(code: str, parts: dict[str, str], *flags: str) -> str:
        done = outside(tmp_path, "parts_of_mine", {f"{name}.py": text for name, text in parts.items()})(code, *flags)
        return done.stdout.strip() + done.stderr

    return run


def test_one_file_a_part_from_outside(run):
    assert run(CODE.format(blocks=KINDS), PARTS, "-W", "error::UserWarning:zoo") == "outside"


def test_a_broken_part_is_named_and_the_others_are_known(run):
    text = run('import zoo; print("roll" in zoo.list_blocks("token_mixer"))', PARTS | {"broken": "import no_such"})
    assert text.startswith("True") and "parts_of_mine.broken is left out: ModuleNotFoundError" in text


def test_a_kind_that_is_not_declared_is_an_error():
    import zoo
    from zoo.slots.table import KINDS, Kind, declare

    with pytest.raises(ValueError, match="kind 'token_mixr' is not one of token_mixer, .*declare makes another"):
        zoo.register_block("token_mixr", "mine")
    with pytest.raises(ValueError, match="'norm' is declared already, otherwise"):
        declare(Kind("norm", "something else"))
    assert declare(KINDS["norm"]) is KINDS["norm"]
    with pytest.raises(TypeError, match="norm 'mine' is a partial, which has no name of its own; register a class"):
        zoo.register_block("norm", "mine")(functools.partial(torch.nn.LayerNorm, eps=1e-3))


def test_a_name_of_zoos_own_stays_zoos(run):
    """Whether zoo's block was read before the other one or not."""
    clash = '''
from torch import nn

from zoo.slots import register_block


@register_block("{}", "{}")
class Mine(nn.Module):
    """Another one."""
'''
    code = """
import zoo
block = zoo.create_model("mixer_test").blocks[0]
print(type(block.channel_mixer).__module__, type(block.token_mixer).__module__)
"""
    parts = {"early": clash.format("channel_mixer", "mlp"), "late": clash.format("token_mixer", "token_mlp")}
    text = run(code, parts)
    assert text.startswith("zoo.blocks.channel.mlp zoo.blocks.token.token_mlp")
    assert "parts_of_mine.early is left out: ValueError: channel_mixer 'mlp' is taken by zoo.blocks.channel.mlp" in text
    assert "parts_of_mine.late.Mine is left out: token_mixer 'token_mlp' is zoo's own name" in text


def test_a_file_that_ends_the_process_ends_nothing(run):
    text = run("import zoo; print(len(zoo.list_models()) > 100)", {"script": "import sys\nsys.exit(3)"})
    assert text.startswith("True") and "parts_of_mine.script is left out: SystemExit: 3" in text


def test_a_family_may_ask_for_another_while_it_is_read(run):
    family = '''
"""Mine: ViT, smaller."""

from zoo.registry import families

FAMILY = families()["vit"].derive(variants={"mine_test": dict(dim=32, depth=1, img_size=32)})
'''
    code = 'import zoo; print(zoo.list_models("mine*", include_tests=True), len(zoo.list_models()) > 100)'
    assert run(code, {"mine": family}) == "['mine_test'] True"
