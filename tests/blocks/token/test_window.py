"""Window attention against timm's blocks; window MLPs against a plain spelling of what the official code computes."""

import copy

import pytest
import torch
from conftest import randomised, relative_error
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.blocks.base import parameters_without_decay
from zoo.blocks.kernels import onednn, windows
from zoo.blocks.linear import initialise
from zoo.blocks.token.partition import window_order
from zoo.blocks.token.position_bias import relative_index
from zoo.blocks.token.window import ShiftedWindowAttention, WindowAttention
from zoo.blocks.token.window_mlp import ShiftedWindowMlp, WindowMlp

cosine = pytest.mark.parametrize("cosine", [False, True], ids=["table", "cosine"])
shifted = pytest.mark.parametrize("shifted", [False, True], ids=["straight", "shifted"])
MIXERS = ["window", "shifted_window", "shifted_window(cosine=True)", "window_mlp", "shifted_window_mlp"]


class NoNorm(nn.Module):
    """In place of a block's norms: returns its input, and has a weight whose device the block asks for."""

    def __init__(self, dim, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, device=device, dtype=dtype))

    def forward(self, x):
        return x


def twins(grid, *, cosine, shifted, window_size=4, **kwargs):
    """timm's block without norms and zoo's mixer with the same random weights, both in eval mode."""
    sides = (window_size,) * 2 if isinstance(window_size, int) else window_size
    kwargs.update(window_size=window_size, shift_size=tuple(s // 2 for s in sides) if shifted else 0)
    block = SwinTransformerV2Block if cosine else SwinTransformerBlock
    block = randomised(block(12, grid, num_heads=3, norm_layer=NoNorm, **kwargs), 0.2)
    mixer = ShiftedWindowAttention if shifted else WindowAttention
    mixer = mixer(12, heads=3, window_size=window_size, cosine=cosine, grid=grid)
    mixer.load_state_dict(block.attn.state_dict())
    return block, mixer.eval()


def attention_of(block, x):
    """What the attention branch of timm's block adds to the skip."""
    found = []
    handle = block.drop_path1.register_forward_hook(lambda module, inputs, output: found.append(output))
    block(x)
    handle.remove()
    return found[0]


def images(*grid, batch=3):
    return torch.randn(batch, *grid, 12)


# --- Attention --------------------------------------------------------------------------------------------------------


@cosine
@shifted
@pytest.mark.parametrize("grid", [(8, 8), (4, 12), (7, 10), (4, 4), (3, 9)])
@pytest.mark.parametrize("window_size", [4, (2, 5)])
def test_attention_and_its_gradients_are_those_of_timm(grid, window_size, shifted, cosine, monkeypatch):
    monkeypatch.setattr(
        onednn, "LEAST_MACS", dict.fromkeys(onednn.LEAST_MACS, 1)
    )  # so that inference takes the fast linear maps
    block, mixer = twins(grid, cosine=cosine, shifted=shifted, window_size=window_size)
    x, weight = images(*grid).requires_grad_(), images(*grid)
    expected, found = attention_of(block, x), mixer(x)
    assert relative_error(found, expected) < 1e-5
    with torch.no_grad():
        assert relative_error(mixer(x), expected) < 1e-5
    parameters = dict(mixer.named_parameters())
    ours = torch.autograd.grad((found * weight).sum(), [x, *parameters.values()])
    theirs = [x, *(block.attn.get_parameter(name) for name in parameters)]
    theirs = torch.autograd.grad((expected * weight).sum(), theirs)
    for name, a, b in zip(["x", *parameters], ours, theirs, strict=True):
        assert relative_error(a, b) < 1e-4, name


@cosine
@shifted
def test_any_grid_is_taken_with_the_window_as_built(shifted, cosine):
    block, mixer = twins((8, 8), cosine=cosine, shifted=shifted, dynamic_mask=True)
    with torch.no_grad():
        for grid in [(12, 16), (9, 6), (3, 5), (1, 1), (8, 8)]:
            x = images(*grid)
            assert relative_error(mixer(x), attention_of(block, x)) < 1e-5, grid
    with pytest.raises(ValueError, match="grid"):
        mixer(images(64))


@cosine
@shifted
def test_set_grid_and_set_window_size_are_set_input_size_of_timm(shifted, cosine):
    block, mixer = twins((6, 6), cosine=cosine, shifted=shifted, window_size=7)
    assert mixer.window == (6, 6) and mixer.shift == (0, 0)
    steps = [
        (lambda: mixer.set_grid((9, 14)), (9, 14), (7, 7)),
        (lambda: mixer.set_window_size((3, 5)), (9, 14), (3, 5)),
        (lambda: mixer.set_grid((5, 4)), (5, 4), (3, 5)),
        (lambda: mixer.set_grid((12, 12), 6), (12, 12), (6, 6)),
    ]
    for move, grid, window_size in steps:
        move()
        block.set_input_size(grid, window_size)
        assert (mixer.window, mixer.shift) == (block.window_size, block.shift_size)
        x = images(*grid)
        with torch.no_grad():
            assert relative_error(mixer(x), attention_of(block, x)) < 1e-5, (grid, window_size)


@shifted
def test_the_scale_of_pretraining_sets_the_offsets(shifted):
    block = SwinTransformerV2Block(12, (8, 8), 3, 4, 2 if shifted else 0, norm_layer=NoNorm, pretrained_window_size=6)
    mixer = ShiftedWindowAttention if shifted else WindowAttention
    mixer = mixer(12, heads=3, window_size=4, cosine=True, pretrained_window=6, grid=(8, 8))
    mixer.load_state_dict(randomised(block, 0.2).attn.state_dict())
    x = images(8, 8)
    assert relative_error(mixer(x), attention_of(block, x)) < 1e-5


@cosine
@shifted
@pytest.mark.parametrize("grad", [False, True])
def test_bf16_is_as_exact_as_timm(grad, shifted, cosine, monkeypatch):
    monkeypatch.setattr(windows, "SCORES", 1000)  # so that the scores come in parts
    block, mixer = twins((11, 8), cosine=cosine, shifted=shifted)
    x = images(11, 8)
    exact = attention_of(copy.deepcopy(block).double(), x.double())
    block, mixer, x = block.bfloat16(), mixer.bfloat16(), x.bfloat16()
    with torch.set_grad_enabled(grad):
        ours, theirs = mixer(x), attention_of(block, x)
    assert ours.dtype is torch.bfloat16
    assert relative_error(ours.double(), exact) < 1.5 * relative_error(theirs.double(), exact) + 0.005


@cosine
def test_bf16_gradients(cosine, monkeypatch):
    block, mixer = twins((11, 8), cosine=cosine, shifted=True)
    x, grads = images(11, 8), []
    for dtype, scores in [(torch.float64, 2**20), (torch.bfloat16, 1000), (torch.bfloat16, 2**20)]:
        monkeypatch.setattr(windows, "SCORES", scores)  # below it the softmax is torch's own
        twin = copy.deepcopy(mixer).to(dtype)
        loss = twin(x.to(dtype)).double().square().sum()
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [twin.qkv.weight, twin.proj.weight])]))
    exact, by_float, plain = (g.double() for g in grads)
    assert relative_error(by_float, exact) < 1.5 * relative_error(plain, exact) + 0.005


def test_autocast_takes_the_same_ways():
    _, mixer = twins((8, 8), cosine=True, shifted=True)
    x, expected = images(8, 8), None
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            expected = mixer(x)
            with torch.autocast("cpu", torch.bfloat16):
                found = mixer(x)
        assert found.dtype is torch.bfloat16 and relative_error(found.float(), expected) < 0.05


def test_a_sequence_is_an_image_of_height_1():
    sequence = ShiftedWindowAttention(12, heads=3, window_size=3, grid=(20,))
    assert sequence.window == (1, 9) and sequence.shift == (0, 4)
    image = ShiftedWindowAttention(12, heads=3, window_size=(1, 9), grid=(1, 20))
    image.load_state_dict(sequence.state_dict())
    x = images(20)
    assert torch.equal(sequence(x), image(x[:, None])[:, 0])
    assert WindowAttention(12, window_size=3, grid=(5,)).window == (1, 5)


@pytest.mark.parametrize(
    "dim, head_dim, heads", [(96, 32, 3), (40, 16, 2), (24, 9, 2), (8, 32, 1), (25, 6, 1), (768, 32, 24)]
)
def test_every_width_has_a_number_of_heads(dim, head_dim, heads):
    assert WindowAttention(dim, head_dim=head_dim, window_size=2, grid=(4, 4)).heads == heads


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="divisor of dim"):
        WindowAttention(12, heads=5, grid=(4, 4))
    with pytest.raises(ValueError, match="cosine=True"):
        WindowAttention(12, pretrained_window=8, grid=(4, 4))
    with pytest.raises(ValueError, match="window_size"):
        WindowAttention(12, window_size=0, grid=(4, 4))
    with pytest.raises(ValueError, match="window_size"):
        WindowMlp(12, window_size=0, grid=(4, 4))
    with pytest.raises(ValueError, match="grid"):
        WindowMlp(12, grid=(4, 4))(images(16))


def test_dropout_of_weights_is_only_for_training():
    mixer = WindowAttention(12, window_size=4, attn_drop=0.5, grid=(8, 8))
    for dtype in (torch.float32, torch.bfloat16):
        mixer, x = mixer.to(dtype), images(8, 8).to(dtype)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                assert not torch.equal(mixer.train()(x), mixer(x)) and torch.equal(mixer.eval()(x), mixer(x))


def test_an_adapter_in_place_of_a_projection_is_called():
    class Adapter(nn.Sequential):
        pass

    for slot in ["window", "window(cosine=True)"]:
        mixer, x = zoo.create_block("token_mixer", slot, 12, grid=(8, 8)), images(8, 8)
        expected, calls = mixer(x), []
        mixer.qkv = Adapter(mixer.qkv)
        mixer.qkv.register_forward_hook(lambda *args, calls=calls: calls.append(args))
        assert relative_error(mixer(x), expected) < 1e-5 and len(calls) == 1


def test_what_is_not_decayed():
    names = lambda slot: parameters_without_decay(zoo.create_block("token_mixer", slot, 12, grid=(8, 8)))
    assert names("window") == {"qkv.bias", "proj.bias", "relative_position_bias_table"}
    cpb = {"cpb_mlp.0.weight", "cpb_mlp.0.bias", "cpb_mlp.2.weight"}
    assert names("window(cosine=True)") == {"proj.bias", "logit_scale", "q_bias", "v_bias", *cpb}
    assert names("window_mlp") == {"spatial_mlp.bias"}


@pytest.mark.parametrize("slot, grid, macs", [("window", (8, 8), 64), ("shifted_window", (7, 9), 96)])
def test_cost(slot, grid, macs):
    """4 dim^2 a position and 2 dim x window area; the positions that fill up the last windows count."""
    mixer = zoo.create_block("token_mixer", f"{slot}(window_size=4)", 12, grid=grid)
    report = zoo.count_flops(mixer, inputs=[images(*grid, batch=1)])
    inside = grid[0] * grid[1]
    assert report.macs == 3 * 12 * 12 * macs + 12 * 12 * inside + 2 * 12 * 16 * macs


# --- MLP --------------------------------------------------------------------------------------------------------------


def plain_window_mlp(mixer, x):
    """Window by window and head by head, zeros around the image."""
    side, shift = mixer.window[0], mixer.shift[0]
    before = side - shift if shift else 0
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, before, 2 * side, before, 2 * side))
    y = torch.zeros_like(x)
    maps = mixer.spatial_mlp.weight[..., 0].chunk(mixer.heads)
    biases = mixer.spatial_mlp.bias.chunk(mixer.heads)
    for i in range(0, height + before, side):
        for j in range(0, width + before, side):
            parts = x[:, i : i + side, j : j + side].flatten(1, 2).chunk(mixer.heads, -1)
            parts = [w @ p + b[:, None] for w, b, p in zip(maps, biases, parts, strict=True)]
            y[:, i : i + side, j : j + side] = torch.cat(parts, -1).unflatten(1, (side, side))
    return y[:, before : before + height, before : before + width]


@pytest.mark.parametrize("cls", [WindowMlp, ShiftedWindowMlp])
@pytest.mark.parametrize("grid", [(8, 8), (4, 12), (12, 8), (7, 10), (3, 9)])
def test_window_mlp_is_a_map_a_window_and_head(grid, cls):
    mixer = randomised(cls(12, heads=3, window_size=4, grid=grid), 0.2)
    side = min(4, *grid)
    assert mixer.window == (side, side)
    assert mixer.shift == ((2, 2) if cls is ShiftedWindowMlp and min(grid) > 4 else (0, 0))
    for size in (grid, (11, 6)):
        x = images(*size)
        expected = plain_window_mlp(mixer, x)
        assert relative_error(mixer(x), expected) < 1e-5
        with torch.no_grad():
            assert relative_error(mixer(x), expected) < 1e-5
            twin = copy.deepcopy(mixer).bfloat16()
            assert relative_error(twin(x.bfloat16()).float(), expected) < 0.05


def test_window_mlp_keeps_the_sums_of_its_weights_on_another_grid():
    mixer = WindowMlp(12, heads=2, window_size=6, grid=(4, 4))
    nn.init.constant_(mixer.spatial_mlp.weight[:16], 0.5)
    nn.init.constant_(mixer.spatial_mlp.weight[16:], -1.0)
    nn.init.constant_(mixer.spatial_mlp.bias, 3.0)
    x = torch.ones(1, 12, 12, 12)
    before = mixer(x)
    mixer.set_grid((12, 12))
    assert mixer.window == (6, 6) and mixer.spatial_mlp.weight.shape == (72, 36, 1)
    assert relative_error(mixer(x), before) < 1e-5
    weight = mixer.spatial_mlp.weight
    mixer.set_grid((18, 7))
    assert mixer.spatial_mlp.weight is weight


def test_window_mlp_of_a_sequence():
    mixer = randomised(ShiftedWindowMlp(12, heads=3, window_size=2, grid=(10,)), 0.2)
    assert mixer.window == (1, 4) and mixer.shift == (0, 2)
    x, weight = images(10), mixer.spatial_mlp.weight.view(3, 4, 4)
    parts = F.pad(x, (0, 0, 2, 4)).unflatten(1, (4, 4)).unflatten(-1, (3, 4))
    expected = torch.einsum("hnm,bwmhd->bwnhd", weight, parts) + mixer.spatial_mlp.bias.view(3, 4).t()[..., None]
    assert relative_error(mixer(x), expected.flatten(1, 2)[:, 2:12].flatten(2)) < 1e-5


# --- Both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", MIXERS)
def test_inference_in_parts_is_the_same(slot, monkeypatch):
    mixer = randomised(zoo.create_block("token_mixer", slot, 12, grid=(9, 10)), 0.2)
    x = images(9, 10, batch=5)
    with torch.no_grad():
        expected = mixer(x)
        monkeypatch.setattr(windows, "IMAGES", 2 * x[0].nbytes)
        assert relative_error(mixer(x), expected) < 1e-6
        assert mixer(x[:0]).shape == (0, 9, 10, 12)


@pytest.mark.parametrize("slot", MIXERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_built_on_meta_and_filled(slot, dtype):
    build = lambda device: zoo.create_block("token_mixer", slot, 12, grid=(9, 10), device=device, dtype=dtype)
    direct, late = build("cpu"), build("meta").to_empty(device="cpu")
    for module in late.modules():
        initialise(module)
    for name, parameter in direct.named_parameters():
        sizes = [p.float().abs().median().item() for p in (parameter, late.get_parameter(name))]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.5), name
    for (name, a), (_, b) in zip(direct.named_buffers(), late.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    late.load_state_dict(direct.state_dict())
    x = images(9, 10).to(dtype)
    assert torch.equal(direct(x), late(x))


@pytest.mark.parametrize("slot", MIXERS)
def test_copies_compiles_and_exports(slot):
    mixer = randomised(zoo.create_block("token_mixer", slot, 12, window_size=4, grid=(7, 10)), 0.2)
    x = images(7, 10)
    expected = mixer(x)
    assert torch.equal(copy.deepcopy(mixer)(x), expected)
    compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)
    assert relative_error(compiled(x), expected) < 1e-5
    with torch.no_grad():
        assert relative_error(compiled(x), expected) < 1e-5
        batch = torch.export.Dim("batch", min=2, max=64)
        program = torch.export.export(mixer, (x,), dynamic_shapes=[{0: batch}])
        more = images(7, 10, batch=7)
        assert relative_error(program.module()(more), mixer(more)) < 1e-5


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (3, 2), (1, 8)])
def test_tables_on_meta_have_the_shapes_of_those_with_values(grid, shift):
    """On meta their shapes are worked out by themselves, without the arithmetic."""
    window = (min(3, grid[0]), min(2, grid[1]))
    made, shapes = (window_order(grid, window, shift, device) for device in ("cpu", "meta"))
    assert made[2] == shapes[2] and sum(made[2]) == len(made[0])
    tables = (*zip(made[:2], shapes[:2], strict=True), tuple(relative_index(window, d) for d in ("cpu", "meta")))
    for table, shape in tables:
        assert shape.is_meta and (shape.shape, shape.dtype) == (table.shape, table.dtype)
