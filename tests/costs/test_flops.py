"""count_flops against counts by hand, against torch's own counter, and against the published figures."""

import logging
import math
import re
import warnings

import pytest
import timm
import torch
from conftest import TEST_VARIANTS
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.costs import count_flops, register_flop_rule


class Run(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def count(function, *shapes, dtype=None):
    return count_flops(Run(function), inputs=[torch.empty(s, dtype=dtype) for s in shapes], batch_size=1)


# --- Rules ------------------------------------------------------------------------------------------------------------

PRODUCTS = {
    "matmul 1x1": (torch.matmul, [(5,), (5,)], 5),
    "matmul 2x1": (torch.matmul, [(3, 5), (5,)], 15),
    "matmul 1x2": (torch.matmul, [(5,), (5, 2)], 10),
    "matmul 2x2": (torch.matmul, [(3, 5), (5, 2)], 30),
    "matmul broadcast": (torch.matmul, [(7, 1, 3, 5), (4, 5, 2)], 7 * 4 * 30),
    "matmul 4x1": (torch.matmul, [(7, 4, 3, 5), (5,)], 7 * 4 * 15),
    "mm": (torch.mm, [(3, 5), (5, 2)], 30),
    "bmm": (torch.bmm, [(4, 3, 5), (4, 5, 2)], 120),
    "mv": (torch.mv, [(3, 5), (5,)], 15),
    "dot": (torch.dot, [(5,), (5,)], 5),
    "inner": (torch.inner, [(3, 5), (4, 5)], 60),
    "outer": (torch.outer, [(3,), (5,)], 15),
    "addmm": (torch.addmm, [(2,), (3, 5), (5, 2)], 30),
    "addmv": (torch.addmv, [(3,), (3, 5), (5,)], 15),
    "addbmm": (torch.addbmm, [(3, 2), (4, 3, 5), (4, 5, 2)], 120),
    "baddbmm": (torch.baddbmm, [(4, 3, 2), (4, 3, 5), (4, 5, 2)], 120),
    "token linear": (
        lambda b, w, x: torch.baddbmm(b, w.expand(4, -1, -1), x),
        [(6, 1), (6, 9), (4, 9, 8)],
        4 * 6 * 9 * 8,
    ),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=([1, 2], [0, 1])), [(2, 3, 5), (3, 5, 7)], 2 * 15 * 7),
    "linear": (F.linear, [(2, 3, 4, 5), (7, 5), (7,)], 2 * 3 * 4 * 5 * 7),
    "linear to one": (F.linear, [(2, 3, 5), (5,)], 30),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products(case):
    function, shapes, macs = PRODUCTS[case]
    report = count(function, *shapes)
    assert (report.macs, report.flops, sum(report.by_operator.values())) == (macs, 2 * macs, macs)
    assert not report.uncounted


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (lambda x, w: F.conv2d(x, w, stride=2, padding=1), [(2, 3, 8, 8), (6, 3, 3, 3)], 2 * 6 * 16 * 27),
        (lambda x, w: F.conv2d(x, w, groups=3), [(1, 6, 8, 8), (9, 2, 3, 3)], 9 * 36 * 2 * 9),
        (lambda x, w, b: F.conv2d(x, w, b, padding=3, groups=6), [(1, 6, 8, 8), (6, 1, 7, 7), (6,)], 6 * 64 * 49),
        (lambda x, w: F.conv2d(x, w, padding=1, dilation=2), [(3, 8, 8), (4, 3, 3, 3)], 4 * 36 * 27),
        (lambda x, w: F.conv1d(x, w, padding="same"), [(2, 3, 8), (4, 3, 4)], 2 * 4 * 8 * 12),
        (F.conv3d, [(1, 2, 4, 4, 4), (5, 2, 2, 2, 2)], 5 * 27 * 16),
        (lambda x, w: F.conv_transpose1d(x, w, stride=2), [(2, 4, 8), (4, 3, 5)], 2 * 8 * 4 * 3 * 5),
        (lambda x, w: F.conv_transpose2d(x, w, groups=2), [(1, 4, 5, 5), (4, 3, 3, 3)], 25 * 4 * 3 * 9),
    ],
    ids=["strided", "grouped", "depthwise", "one image", "same", "3-D", "transposed", "transposed grouped"],
)
def test_convolutions(function, shapes, macs):
    assert count(function, *shapes).macs == macs


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bnd,bmd->bnm", [(2, 3, 5), (2, 4, 5)], 2 * 3 * 4 * 5),
        ("...c,dc->...d", [(2, 3, 5), (7, 5)], 2 * 3 * 5 * 7),
        ("...ij,...jk", [(2, 1, 3, 5), (4, 5, 6)], 2 * 4 * 3 * 5 * 6),
        ("ij,jk", [(3, 5), (5, 2)], 30),
        ("a,b->ab", [(3,), (5,)], 15),
        ("ab,cd->ac", [(3, 5), (7, 9)], 21),  # b and d are summed before the product
        ("ab,bc,cd->ad", [(2, 30), (30, 4), (4, 50)], 2 * 30 * 4 + 2 * 4 * 50),  # from left to right
        ("abc->ab", [(2, 3, 4)], 0),
    ],
)
def test_einsum(equation, shapes, macs):
    assert count(lambda *x: torch.einsum(equation, *x), *shapes).macs == macs


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_two_products_whatever_the_mask(causal):
    shapes = (2, 4, 6, 16), (2, 4, 9, 16), (2, 4, 9, 8)
    report = count(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal), *shapes)
    assert report.by_operator == {"scaled_dot_product_attention": 2 * 4 * 6 * 9 * (16 + 8)}


def test_attention_with_fewer_key_heads_counts_all_query_heads():
    attend = lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    assert count(attend, (2, 8, 6, 16), (2, 2, 9, 16)).macs == 2 * 8 * 6 * 9 * 32


class SelfAttention(nn.Module):
    def __init__(self, need_weights):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x):
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


@pytest.mark.parametrize("need_weights", [False, True])  # fused, explicit
def test_multihead_attention(need_weights):
    report = count_flops(SelfAttention(need_weights), (5, 8))
    assert report.by_operator.pop("linear") == 5 * 8 * 8 * 4
    assert report.by_operator == {"bmm" if need_weights else "scaled_dot_product_attention": 2 * 5 * 5 * 8}


def test_fused_transformer_layer_is_counted_by_its_parts_when_it_cannot_leave_its_device():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(Run(lambda x: x * x.mean().item()), layer)  # .item() needs data: no meta device
    assert torch.backends.mha.get_fastpath_enabled()
    assert count_flops(model, (5, 8)).macs == 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("a", "b", "macs"),
    [
        ((32, 16), (4, 16, 48), 32 * 16 * 48),  # tokens of four experts
        ((4, 32, 16), (4, 16, 48), 4 * 32 * 16 * 48),
        ((4, 32, 16), (16, 32), 32 * 16 * 32),
        ((16, 32), (32, 16), 16 * 32 * 16),
    ],
)
def test_grouped_matmul(a, b, macs):
    a, b = torch.empty(a, dtype=torch.bfloat16), torch.empty(b, dtype=torch.bfloat16)
    ends = torch.tensor([8, 16, 24, 32], dtype=torch.int32)
    offsets = () if a.dim() == b.dim() == 3 else (ends,)
    model = Run(lambda a, b, *offsets: torch._grouped_mm(a, b, *offsets))
    assert count_flops(model, inputs=(a, b, *offsets), batch_size=1).macs == macs


@pytest.mark.parametrize(
    ("function", "shape", "transforms", "points", "factor"),
    [
        (torch.fft.fft, (4, 6, 8), 24, 8, 2.5),
        (lambda x: torch.fft.ifft(x, dim=1), (4, 6, 8), 32, 6, 2.5),
        (torch.fft.rfft, (4, 6, 8), 24, 8, 1.25),
        (torch.fft.rfft, (4, 6, 7), 24, 7, 1.25),
        (lambda x: torch.fft.rfft(x, n=16, dim=1), (4, 6, 8), 32, 16, 1.25),
        (torch.fft.irfft, (4, 6, 5), 24, 8, 1.25),
        (lambda x: torch.fft.rfft2(x, norm="ortho"), (4, 6, 8), 4, 48, 1.25),
        (lambda x: torch.fft.rfft2(x, dim=(1, 2)), (4, 6, 8, 3), 12, 48, 1.25),
        (lambda x: torch.fft.irfft2(x, s=(6, 9)), (4, 6, 5), 4, 54, 1.25),
        (torch.fft.fft2, (4, 6, 8), 4, 48, 2.5),
        (torch.fft.fftn, (4, 6, 8), 1, 192, 2.5),
        (lambda x: torch.fft.rfftn(x, s=(6, 16)), (4, 6, 8), 4, 96, 1.25),
        (torch.fft.hfft, (4, 5), 4, 8, 1.25),
        (torch.fft.ihfft, (4, 8), 4, 8, 1.25),
    ],
)
def test_fft(function, shape, transforms, points, factor):
    report = count(lambda x: function(x).real, shape)
    assert report.macs == round(transforms * factor * points * math.log2(points))
    assert not report.uncounted


# --- What is not counted ----------------------------------------------------------------------------------------------


def test_arithmetic_without_macs_is_listed_and_movement_is_not():
    def function(x):
        x = F.relu(x, inplace=True).clamp(max=1) * 2 + x.flip(0)
        x = F.layer_norm(x, (4,)).softmax(-1)
        x = torch.cat([x, x.transpose(0, 1)]).unsqueeze(0).reshape(1, 1, 8, 4).contiguous()
        return F.dropout(F.avg_pool2d(x, 2), training=False).flatten().view(-1).max(0)[0]

    report = count(function, (4, 4))
    expected = ("relu", "clamp", "mul", "add", "layer_norm", "softmax", "avg_pool2d", "max")
    assert report.uncounted == dict.fromkeys(expected, 1)
    assert (report.macs, report.by_operator) == (0, {})


def test_arithmetic_on_sizes_is_not_listed():
    report = count(lambda x: x.view(x.shape[0] * x.shape[1] // 2, -1) * x.shape[-1] ** -0.5, (4, 6, 8))
    assert report.uncounted == {"mul": 1}


@torch.library.custom_op("zoo_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


twice.register_fake(torch.empty_like)


@torch.library.custom_op("zoo_tests::without_fake", mutates_args=())
def without_fake(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (twice, "zoo_tests::twice"),
        (without_fake, "zoo_tests::without_fake"),  # cannot run on meta
        (Function.apply, "prim::PythonOp.Function"),
        (lambda x: torch.from_numpy(2 * x.numpy()), "prim::Constant"),  # came from outside of torch
        (torch.special.bessel_j0, "special_bessel_j0"),
    ],
)
def test_an_unknown_operator_shows_up(function, name):
    assert count(lambda x: function(x).flatten(), (3, 4)).uncounted == {name: 1}


def test_a_rule_of_ones_own():
    seen = []

    @torch.library.custom_op("zoo_tests::rational", mutates_args=())
    def rational(x: torch.Tensor, weights: list[torch.Tensor], degree: int) -> torch.Tensor:
        return x.clone()

    rational.register_fake(lambda x, weights, degree: torch.empty_like(x))

    @register_flop_rule("zoo_tests::rational")
    def rule(inputs, outputs):
        seen.append(inputs)
        return inputs[2] * outputs[0].numel()

    report = count(lambda x, w: rational(x, [w, w], 7), (3, 4), (5,))
    assert seen == [[torch.Size([3, 4]), [torch.Size([5]), torch.Size([5])], 7]]
    assert (report.by_operator, report.uncounted) == ({"zoo_tests::rational": 84}, {})
    assert "zoo_tests::rational" in str(report)


def test_a_bad_registration_is_refused():
    with pytest.raises(ValueError, match="'linear' needs its namespace, as in 'aten::linear'"):
        register_flop_rule("linear")(lambda inputs, outputs: 0)
    with pytest.raises(ValueError, match="'aten::linear' has a rule already: zoo.costs.rules._linear"):
        register_flop_rule("aten::linear")(lambda inputs, outputs: 0)


# --- Modules and parameters -------------------------------------------------------------------------------------------


class Reuse(nn.Module):
    """One layer called twice, and its weight shared with another."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.body[0].weight
        self.scale = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return self.tied(self.body(self.body(x))) @ self.scale


def test_reuse_counts_macs_twice_and_shared_parameters_once():
    report = count_flops(Reuse(), (4,))
    assert report.by_module == {"": 64, "body": 32, "body.0": 32, "body.1": 0, "tied": 16}
    assert report.params_by_module == {"": 36, "body": 20, "body.0": 20, "body.1": 0, "tied": 16}
    assert (report.params, report.active_params, report.macs, report.active_macs) == (36, 36, 64, 64)
    assert report.by_operator == {"linear": 48, "matmul": 16}


def test_totals_are_for_one_sample():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))
    one, eight = count_flops(model, (3, 8, 8)), count_flops(model, (3, 8, 8), batch_size=8)
    assert one.macs == eight.macs == 36 * 4 * 27 + 1440
    assert (one.by_module, one.by_operator) == (eight.by_module, eight.by_operator)
    assert (eight.input_shapes, eight.batch_size) == (((8, 3, 8, 8),), 8)
    given = count_flops(model, inputs=torch.empty(5, 3, 8, 8))
    assert (given.macs, given.batch_size) == (one.macs, 5)


def test_a_sparse_module_tells_what_is_active():
    class Experts(nn.Module):
        """Carries out one expert of four."""

        active_fraction = 0.25

        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(4))

        def forward(self, x):
            return self.experts[0](x)

    model = nn.Sequential(nn.Linear(8, 8, bias=False), Experts())
    report = count_flops(model, (8,))
    assert (report.params, report.active_params) == (5 * 64, 2 * 64)
    assert report.macs == report.active_macs == 2 * 64
    assert "active for one token: 128 parameters" in str(report)

    model[1].active_fraction = 4
    with pytest.raises(ValueError, match=r"active_fraction of module '1' is 4; it must be in \(0, 1\]"):
        count_flops(model, (8,))


def test_where_the_input_size_comes_from():
    model = nn.Linear(8, 2)
    with pytest.raises(ValueError, match=r"Linear does not tell its input size; give input_size=\(C, H, W\)"):
        count_flops(model)
    model.pretrained_cfg = {"input_size": (3, 8)}
    assert count_flops(model).macs == 48
    model.input_size = (5, 8)
    assert count_flops(model).macs == 80
    assert count_flops(model, (8,)).macs == 16
    with pytest.raises(ValueError, match="input_size or inputs, not both"):
        count_flops(model, (8,), inputs=torch.empty(1, 8))


def test_an_input_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"Linear cannot be traced on input of shape \(1, 9\) .* give input_size="):
        count_flops(nn.Linear(8, 2), (9,))


def test_the_table():
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 10))
    assert (
        str(count_flops(model, (3, 32, 32)))
        == """\
11.03 k parameters, 59.39 k MACs (118.78 k FLOPs) a sample, input 1 x 3 x 32 x 32

module       parameters     MACs   share
0                 784    49.15 k   82.8%
3               10.25 k  10.24 k   17.2%
total           11.03 k  59.39 k  100.0%

operator                    MACs   share
convolution              49.15 k   82.8%
linear                   10.24 k   17.2%

Not counted as MACs (operator and calls): relu 1"""
    )


def test_the_table_goes_as_deep_as_asked():
    report = count_flops(nn.Sequential(Reuse(), nn.Linear(4, 2)), (4,))
    first = lambda depth: [re.match(r" *\S+", line)[0] for line in report.table(depth).split("\n\n")[1].splitlines()]
    assert first(1) == ["module", "0", "1", "total"]
    assert first(2) == ["module", "0", "  0.body", "  0.tied", "1", "total"]


# --- The model stays as it is -----------------------------------------------------------------------------------------


class Everything(nn.Module):
    """Buffers of both kinds, a tensor that is neither, batch norm, and a forward with a side effect."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.register_buffer("mask", torch.ones(4), persistent=False)
        self.register_buffer("calls", torch.zeros(()))
        self.table = torch.ones(4)

    def forward(self, x):
        self.calls += 1
        if self.training or torch.is_grad_enabled():
            return x
        x = self.norm(self.conv(x)) * self.mask[:, None, None]
        return self.head(x.mean((2, 3)) * self.table.to(x.dtype))


MACS_OF_EVERYTHING = 36 * 4 * 27 + 8


def state_of(model):
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()), model.table]
    return {
        "values": [t.detach().clone() for t in tensors],
        "identities": [(id(t), t.dtype, t.device, t.requires_grad) for t in tensors],
        "modes": [m.training for m in model.modules()],
        "names": [(list(vars(m)), list(m._parameters), list(m._buffers)) for m in model.modules()],
        "saved": list(model.state_dict()),
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "random": [torch.get_rng_state()],
    }


@pytest.mark.parametrize("needs_data", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_untouched(dtype, needs_data):
    model = Everything().to(dtype)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    model.norm.eval()
    if needs_data:  # meta cannot
        model.conv.register_forward_hook(lambda module, inputs, output: output * output.sum().item())
    before = state_of(model)
    report = count_flops(model, (3, 8, 8))
    after = state_of(model)

    for tensors in ("values", "random"):
        assert all(map(torch.equal, before.pop(tensors), after.pop(tensors)))
    assert before == after
    assert report.macs == MACS_OF_EVERYTHING
    assert set(report.by_operator) == {"convolution", "linear"}
    assert report.uncounted == {"batch_norm": 1, "mul": 2 + needs_data, "mean": 1}


def test_given_inputs_are_untouched():
    x = torch.ones(3, 4)
    count_flops(Run(lambda x: x.mul_(2) * x.sum().item()), inputs=x)
    assert x.eq(1).all()


class OnlyMeta(TorchDispatchMode):
    """Fails when an operator gives more than a number on a real device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            assert not isinstance(tensor, torch.Tensor) or tensor.is_meta or tensor.numel() == 1, func
        return out


def test_no_arithmetic_runs_and_no_weight_is_copied():
    models = [Everything(), timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), img_size=56)]
    for model, size in zip(models, (8, 56), strict=True):
        inputs = torch.empty(1, 3, size, size, device="meta")
        with OnlyMeta():
            assert count_flops(model, inputs=inputs).macs > 0


def test_a_model_on_meta():
    with torch.device("meta"):
        model = Everything()
    assert count_flops(model, (3, 8, 8)).macs == MACS_OF_EVERYTHING
    assert model.conv.weight.is_meta


@pytest.mark.parametrize(
    "context",
    [torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.device("meta")],
    ids=["inference", "no grad", "autocast", "device"],
)
def test_the_surrounding_context_does_not_matter(context):
    model = Everything().to("meta")  # where a count has nothing else to fall back on
    expected = count_flops(model, (3, 8, 8))
    with context:
        assert count_flops(model, (3, 8, 8)) == expected


def test_nothing_is_printed(capfd, caplog):
    model = Everything()
    model.never_called = nn.Linear(2, 2)
    model.head = nn.Sequential(model.head, Run(lambda x: (warnings.warn("old", stacklevel=1), x.relu())[1]))
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count_flops(model, (3, 8, 8))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records and not caught


# --- What stands around modules ---------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """Modules in a list, one of them twice, two that share a weight, and a fraction that is active."""

    pretrained_cfg = {"input_size": (8,)}
    active_fraction = 0.5

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3))
        self.blocks.append(self.blocks[0])
        self.blocks[1][0].weight = self.blocks[2][0].weight
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def compile_each(model):
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block)
    return model


def compile_in_place(model):
    for block in model.blocks:
        block.compile()
    return model


def compile_parts_and_whole(model):
    for block in dict.fromkeys(model.blocks):
        block[0] = torch.compile(block[0])
    return torch.compile(compile_each(model))


def compile_methods(model):
    for module in model.modules():
        module.forward = torch.compile(module.forward)
    return model


WRAPPERS = {
    "the whole": torch.compile,
    "each block": compile_each,
    "blocks in place": compile_in_place,
    "parts of parts": compile_parts_and_whole,
    "methods": compile_methods,
    "data parallel": lambda model: nn.DataParallel(compile_each(model)),
    "average": lambda model: torch.optim.swa_utils.AveragedModel(model),
    "average, compiled": lambda model: torch.compile(timm.utils.ModelEmaV3(compile_each(model))),
}


@pytest.mark.parametrize("needs_data", [False, True])  # True: meta tensors will not do, the weights are traced
@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_are_looked_through_wherever_they_stand(kind, needs_data):
    def make():
        model = Blocks()
        if needs_data:
            model.head.register_forward_hook(lambda module, inputs, output: output * output.sum().item())
        return model

    expected, wrapped = count_flops(make()), WRAPPERS[kind](make())
    before = [(name, type(module), list(vars(module))) for name, module in wrapped.named_modules()]
    assert count_flops(wrapped) == expected
    assert [(name, type(module), list(vars(module))) for name, module in wrapped.named_modules()] == before


@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_a_symbolic_graph_costs_what_its_model_does(name):
    model = zoo.create_model(name)
    assert count_flops(torch.fx.symbolic_trace(model), input_size=model.input_size).macs == count_flops(model).macs


def test_distributed_data_parallel_is_looked_through(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/here", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(compile_each(Blocks()))
        assert count_flops(wrapped) == count_flops(Blocks())
    finally:
        torch.distributed.destroy_process_group()


class CompiledMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.act = torch.compile(lambda x: x.relu())

    @torch.compile
    def forward(self, x):
        return self.act(self.fc(x))


def test_methods_that_a_class_compiles_and_functions_that_a_module_keeps():
    model = CompiledMethod()
    report = count_flops(model, (8,))
    assert report.by_module == {"": 32, "fc": 32} and report.uncounted == {"relu": 1}
    assert "forward" not in vars(model) and hasattr(model.act, "_torchdynamo_orig_callable")


@pytest.mark.parametrize("name", ["vit_test", "swin_test", "convnext_test", "kat_test", "vmoe_test"])
def test_a_model_whose_blocks_are_compiled_counts_as_it_is(name):
    expected, model = count_flops(zoo.create_model(name)), zoo.create_model(name)
    for owner in list(model.modules()):
        for i, block in enumerate(getattr(owner, "blocks", None) or ()):
            owner.blocks[i] = torch.compile(block)
    assert any("_orig_mod" in key for key, _ in model.named_modules())
    assert count_flops(model) == expected


# --- Real models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("vit_small_patch16_224", 4.61e9),
        ("deit_tiny_patch16_224", 1.26e9),
        ("mixer_s16_224", 3.79e9),
        ("gmlp_s16_224", 4.42e9),
        ("resmlp_12_224", 3.01e9),
        ("swin_tiny_patch4_window7_224", 4.5e9),
        ("convnext_atto", 0.55e9),
        ("poolformer_s12", 1.82e9),
    ],
)
def test_timm_models_against_published_figures_and_torchs_own_counter(name, published):
    model = timm.create_model(name, device="meta").eval()
    report = count_flops(model)
    assert report.macs == pytest.approx(published, rel=0.01)
    assert report.params == sum(p.numel() for p in model.parameters())
    x = torch.empty(1, *model.pretrained_cfg["input_size"], device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    assert report.flops == counter.get_total_flops()


# In evaluation the branches of UniRepLKNet and RepMLPNet are one kernel unless something watches their modules; experts
# of several kinds cost what the values choose; and Swin-MoE drops choices by the values, while all are counted.
NOT_COMPARED = {"unireplknet_test", "repmlp_test", "mlp_kan_test", "swin_moe_test"}


@pytest.mark.parametrize("name", sorted(set(TEST_VARIANTS) - NOT_COMPARED))
def test_zoo_models_run_in_the_open_while_torchs_own_counter_watches(name):
    """No fast path hides what it computes, though sizes are such that it would be taken.

    Left out are functions of single numbers, which torch does not count. Attention is taken apart, since torch's
    counter does not know the operator that is fused on the CPU.
    """
    model = zoo.create_model(name).eval()
    x = torch.randn(64, *model.input_size)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    report = count_flops(model, inputs=x, batch_size=1)
    assert counter.get_total_flops() == 2 * (report.macs - report.by_operator.get("zoo::evaluation", 0))


def test_fused_and_explicit_attention_count_the_same():
    model = timm.create_model("vit_tiny_patch16_224", depth=2)
    fused = count_flops(model)
    for block in model.blocks:
        assert block.attn.fused_attn
        block.attn.fused_attn = False
    explicit = count_flops(model)
    assert (fused.macs, fused.by_module) == (explicit.macs, explicit.by_module)
    assert fused.by_operator["scaled_dot_product_attention"] == explicit.by_operator["matmul"]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant):
    model = timm.create_model("vit_tiny_patch16_224", depth=2)
    plain = count_flops(model)
    model.set_grad_checkpointing(True)
    before = timm.layers.use_reentrant_ckpt()
    timm.layers.set_reentrant_ckpt(reentrant)
    try:
        assert count_flops(model) == plain
    finally:
        timm.layers.set_reentrant_ckpt(before)
    assert model.grad_checkpointing


def test_models_are_counted_after_something_else_was_compiled():
    """A compiler puts functions of its own into the class of all modules."""
    torch._dynamo.reset()
    torch.compile(torch.nn.Sequential(torch.nn.Linear(2, 2)), backend="aot_eager", fullgraph=True)(torch.ones(1, 2))
    assert "torch._dynamo" in torch.nn.Module.__init__.__globals__["__name__"]
    assert zoo.count_flops(torch.nn.Linear(2, 3), inputs=[torch.ones(1, 2)]).macs == 6
