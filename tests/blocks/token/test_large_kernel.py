"""Depthwise convolutions, UniRepLKNet's token mixer and GRN's channel mixer, against plain spellings of them."""

import copy

import pytest
import timm
import torch
from conftest import relative_error
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.blocks.channel.grn_mlp import GRN, GrnMlp
from zoo.blocks.conv import DepthwiseConv2d, conv_nhwc, depthwise_nhwc
from zoo.blocks.kernels import depthwise
from zoo.blocks.linear import initialise
from zoo.blocks.token.depthwise_conv import DepthwiseConv
from zoo.blocks.token.large_kernel import BRANCHES, LargeKernel, branches_of


def plain(x, weight, bias=None, dilation=1):
    """The depthwise convolution as torch has it, in float64."""
    x, weight, bias = (None if t is None else t.double() for t in (x, weight, bias))
    padding = dilation * (weight.shape[-1] // 2)
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, 1, padding, dilation, len(weight))
    return y.permute(0, 2, 3, 1)


def tensors(shape, kernel, dtype=torch.float32):
    weight = torch.randn(shape[-1], 1, kernel, kernel) / kernel
    return [t.to(dtype).requires_grad_() for t in (torch.randn(shape), weight, torch.randn(shape[-1]))]


def same_gradients(found, expected, inputs):
    """Up to the rounding of the largest: a gradient may be exactly 0, as that of a shift before a batch norm."""
    pairs = list(zip(*(torch.autograd.grad(t, inputs, retain_graph=True) for t in (found, expected)), strict=True))
    limit = 1e-5 * max(b.abs().max() for _, b in pairs)
    for a, b in pairs:
        assert (a - b).abs().max() < 1e-4 * b.abs().max() + limit


# --- The depthwise convolution ----------------------------------------------------------------------------------------

CASES = {  # shape, kernel, dilation
    "3x3": ((2, 9, 8, 6), 3, 1),
    "small": ((3, 9, 8, 6), 7, 1),
    "13 columns": ((2, 16, 20, 16), 13, 1),
    "13 columns, odd channels": ((2, 16, 20, 20), 13, 1),
    "a kernel larger than the image": ((2, 7, 5, 16), 31, 1),
    "a kernel cut to 13 columns": ((2, 9, 7, 16), 31, 1),
    "a sequence": ((2, 1, 30, 8), 9, 1),
    "one pixel": ((2, 1, 1, 8), 5, 1),
    "dilated": ((2, 44, 42, 16), 3, 3),
    "dilated beyond the image": ((2, 5, 4, 8), 7, 2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_depthwise_convolution_and_its_gradients(case, dtype):
    """In bf16 torch's own gradient of the dilated case is of another order of magnitude on some machines."""
    shape, kernel, dilation = CASES[case]
    inputs = tensors(shape, kernel, dtype)
    y = depthwise_nhwc(*inputs, dilation)
    expected = plain(*inputs, dilation)
    limit = 1e-5 if dtype is torch.float32 else 0.05
    assert y.dtype is dtype and relative_error(y.double(), expected) < limit
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, inputs, grad)
    for a, b in zip(found, torch.autograd.grad(expected, inputs, grad.double()), strict=True):
        assert a.dtype is dtype and relative_error(a.double(), b.double()) < limit


def test_depthwise_convolution_of_any_stride():
    x, weight, bias = tensors((2, 8, 6, 9), 5)
    for view in (
        x.transpose(1, 2),
        x.permute(0, 2, 1, 3)[:, ::2],
        x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    ):
        y = depthwise_nhwc(view, weight, bias)
        expected = plain(view, weight, bias)
        assert relative_error(y.double(), expected) < 1e-5
        a, b = (torch.autograd.grad(out.mean(), weight)[0] for out in (y, expected))  # a mean's gradient has stride 0
        assert relative_error(a, b) < 1e-5


def test_depthwise_convolution_without_some_gradients():
    x, weight, bias = tensors((2, 8, 6, 9), 5)
    all_three = torch.autograd.grad(depthwise_nhwc(x, weight, bias).square().sum(), (x, weight, bias))
    for i, wanted in enumerate((x, weight, bias)):
        inputs = [t if t is wanted else t.detach() for t in (x, weight, bias)]
        found = torch.autograd.grad(depthwise_nhwc(*inputs).square().sum(), wanted)[0]
        assert torch.allclose(found, all_three[i])
    assert depthwise_nhwc(x[:0], weight, bias).shape == (0, 8, 6, 9)


def test_second_derivatives_and_one_gradient_a_sample():
    x, weight, bias = tensors((3, 8, 6, 4), 5)
    penalties = []
    for conv in (depthwise_nhwc, plain):
        (grad,) = torch.autograd.grad(conv(x, weight, bias).pow(3).sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(grad.square().sum(), (x, weight)))
    for a, b in zip(*penalties, strict=True):
        assert relative_error(a, b) < 1e-4

    def loss(weight, sample):
        return depthwise_nhwc(sample[None], weight).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight.detach(), x.detach())
    for found, sample in zip(each, x.detach(), strict=True):
        assert relative_error(found, torch.func.grad(loss)(weight.detach(), sample)) < 1e-5


def test_the_fast_form_steps_aside_wherever_something_watches():
    x, weight, bias = tensors((2, 16, 20, 16), 13)
    expected = plain(x, weight, bias).float()
    compiled = torch.compile(depthwise_nhwc, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x, weight, bias), expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_nhwc(x, weight, bias)
        assert y.dtype is F.conv2d(x.permute(0, 3, 1, 2), weight, groups=16).dtype is torch.bfloat16
    assert [g.dtype for g in torch.autograd.grad(y.sum(), (x, weight, bias))] == [torch.float32] * 3
    assert not depthwise.usable(x.double(), weight.double())
    assert not depthwise.usable(x.to("meta"), weight.to("meta"))
    report = zoo.count_flops(DepthwiseConv(16, kernel_size=13), inputs=x.detach()[:1])
    assert report.macs == 16 * 20 * 16 * 13 * 13


@pytest.mark.parametrize("shape", [(2, 9, 7, 8), (2, 12, 8)])
def test_depthwise_conv_mixer(shape):
    mixer, x = DepthwiseConv(8, kernel_size=5), torch.randn(shape)
    image = x if x.ndim == 4 else x[:, None]
    assert torch.allclose(mixer(x), plain(image, mixer.conv.weight, mixer.conv.bias).float().reshape(shape), atol=1e-6)
    assert [n for n, _ in mixer.named_parameters()] == ["conv.weight", "conv.bias"]
    assert DepthwiseConv(8, bias=False).conv.bias is None


@pytest.mark.parametrize("size", [0, -3, 4])
def test_a_kernel_has_a_centre(size):
    with pytest.raises(ValueError, match=f"kernel_size is {size}; it must be (odd|from 1)"):
        DepthwiseConv(8, kernel_size=size)


# --- The large kernel -------------------------------------------------------------------------------------------------


def lively(module: nn.Module) -> nn.Module:
    """Noise on every parameter and every running statistic, so that nothing is the identity."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    for name, buffer in module.named_buffers():
        if "mean" in name:
            nn.init.normal_(buffer, std=0.3)
        elif "var" in name:
            nn.init.uniform_(buffer, 0.3, 2.0)
    return module


def spelled_out(mixer: LargeKernel, x: torch.Tensor) -> torch.Tensor:
    """What the mixer computes, branch by branch, by torch's functions in (B, C, H, W)."""

    def batch_norm(y, bn):
        axes, view = (0, 2, 3), (1, -1, 1, 1)
        mean = y.mean(axes) if bn.training else bn.running_mean
        var = y.var(axes, correction=0) if bn.training else bn.running_var
        y = (y - mean.view(view)) / (var.view(view) + bn.eps).sqrt()
        return y * bn.weight.view(view) + bn.bias.view(view)

    image = x.permute(0, 3, 1, 2)
    kernel = mixer.conv.weight
    y = F.conv2d(image, kernel, None, 1, kernel.shape[-1] // 2, 1, len(kernel))
    if mixer.bn is not None:
        y = batch_norm(y, mixer.bn)
    for (side, dilation), branch in zip(branches_of(kernel.shape[-1]), mixer.branches.values(), strict=True):
        assert branch.conv.weight.shape[-1] == side
        part = F.conv2d(image, branch.conv.weight, None, 1, dilation * (side // 2), dilation, len(kernel))
        y = y + batch_norm(part, branch.bn)
    y = batch_norm(y, mixer.norm)
    if mixer.se is not None:
        hidden = F.relu(mixer.se.down(y.mean((2, 3))))
        y = y * torch.sigmoid(mixer.se.up(hidden))[:, :, None, None]
    return y.permute(0, 2, 3, 1)


@pytest.mark.parametrize("se_ratio", [0.25, 0])
@pytest.mark.parametrize("size", [3, 5, 7, 13, 31])
def test_large_kernel_in_training_and_merged(size, se_ratio):
    mixer, x = lively(LargeKernel(8, kernel_size=size, se_ratio=se_ratio)), torch.randn(3, 10, 11, 8)
    assert relative_error(mixer(x), spelled_out(mixer, x)) < 1e-5
    mixer.eval()
    expected = spelled_out(mixer, x)
    assert relative_error(mixer(x), expected) < 1e-5  # merged on the fly
    with torch.no_grad():
        assert relative_error(mixer(x), expected) < 1e-5
    merged = copy.deepcopy(mixer)
    merged.reparameterize()
    assert relative_error(merged(x), expected) < 1e-5
    width = 2 if se_ratio else 0
    assert sum(p.numel() for p in merged.parameters()) == 8 * (size**2 + 1) + 2 * 8 * width + (8 + width) * bool(width)
    assert not list(merged.buffers()) and merged.deployed and not mixer.deployed


def test_gradients_of_the_merged_kernel_are_those_of_the_branches():
    mixer, x = lively(LargeKernel(8)).eval(), torch.randn(2, 9, 9, 8)
    same_gradients(mixer(x).square().sum(), spelled_out(mixer, x).square().sum(), list(mixer.parameters()))


def test_statistics_change_in_training_alone():
    mixer, x = LargeKernel(8), torch.randn(4, 9, 9, 8) + 1
    norms = [m for m in mixer.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 7
    mixer(x)
    part = plain(x, mixer.conv.weight)
    assert relative_error(norms[0].running_mean, 0.1 * part.mean((0, 1, 2))) < 1e-4
    assert relative_error(norms[0].running_var, 0.9 + 0.1 * part.var((0, 1, 2))) < 1e-4
    before = copy.deepcopy(mixer.state_dict())
    mixer.eval()(x)
    assert all(torch.equal(v, before[k]) for k, v in mixer.state_dict().items())
    mixer.train()(x)
    assert {int(m.num_batches_tracked) for m in norms} == {2}
    assert not any(
        torch.equal(m.running_mean, before[f"{k}.running_mean"]) for k, m in mixer.named_modules() if m in norms
    )


def test_only_bare_layers_are_merged():
    """A hook sees its layer's call, norms in training use the batch, another class of norm is called."""
    mixer, x = lively(LargeKernel(8)).eval(), torch.randn(2, 9, 9, 8)
    expected, calls = mixer(x), []
    handle = mixer.branches["k7_2"].conv.register_forward_hook(lambda *a: calls.append(a))
    assert relative_error(mixer(x), expected) < 1e-5 and len(calls) == 1
    handle.remove()
    mixer.branches["k3_4"].bn.train()
    assert relative_error(mixer(x), spelled_out(mixer, x)) < 1e-5 and relative_error(mixer(x), expected) > 1e-3
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(lively(LargeKernel(8))).eval()
    expected = synced(x)
    synced.reparameterize()
    assert relative_error(synced(x), expected) < 1e-5


def test_reparameterising_twice_by_name_and_on_meta():
    mixer, x = lively(LargeKernel(8)).eval(), torch.randn(2, 9, 9, 8)
    expected = mixer(x)
    model = timm.utils.reparameterize_model(nn.Sequential(mixer))
    assert not mixer.deployed and relative_error(model(x), expected) < 1e-5
    state = copy.deepcopy(model.state_dict())
    model[0].reparameterize()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    empty = LargeKernel(8, device="meta")
    empty.reparameterize()
    empty.to_empty(device="cpu").load_state_dict(model[0].state_dict())
    assert torch.equal(empty(x), model(x))


def test_branches_fit_into_every_kernel():
    for size in range(7, 52, 2):
        spans = [dilation * (side - 1) + 1 for side, dilation in branches_of(size)]
        assert len(set(branches_of(size))) == len(spans) and all(5 <= span <= size for span in spans), size
    assert branches_of(13) == ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)) and set(BRANCHES) == set(range(3, 18, 2))


def test_a_sequence_is_an_image_of_height_one():
    mixer, x = lively(LargeKernel(8)), torch.randn(3, 20, 8)
    for training in (True, False):
        mixer.train(training)
        assert torch.allclose(mixer(x), mixer(x[:, None])[:, 0], atol=1e-6)
    mixer.reparameterize()
    assert torch.allclose(mixer(x), spelled_out_sequence(mixer, x), atol=1e-5)


def spelled_out_sequence(mixer: LargeKernel, x: torch.Tensor) -> torch.Tensor:
    y = F.conv1d(x.transpose(1, 2), mixer.conv.weight[:, :, 6], mixer.conv.bias, padding=6, groups=8).transpose(1, 2)
    return mixer.se(y)


@pytest.mark.parametrize(
    "options, message",
    [("kernel_size=4", "kernel_size is 4; it must be odd"), ("kernel_size=1", "kernel_size is 1; it must be from 3")],
)
def test_kernels_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_block("token_mixer", f"large_kernel({options})", dim=8)
    with pytest.raises(ValueError, match="se_ratio is -1; it must be from 0"):
        LargeKernel(8, se_ratio=-1)


# --- Global response normalisation ------------------------------------------------------------------------------------


def plain_grn(x: torch.Tensor, grn: GRN) -> torch.Tensor:
    norm = x.square().sum(tuple(range(1, x.ndim - 1)), keepdim=True).sqrt() if x.ndim > 2 else x.abs()
    return (grn.gamma * norm / (norm.mean(-1, keepdim=True) + 1e-6) + 1) * x + grn.beta


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # the CPU's own form of the norm, and torch's
def test_grn(dtype):
    grn, x = lively(GRN(6, dtype=dtype)), torch.randn(3, 5, 6, dtype=dtype)
    assert torch.allclose(grn(x), plain_grn(x, grn), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_that_are_zero_everywhere_do_not_spoil_the_gradient(dtype):
    grn = lively(GRN(6, dtype=dtype))
    for dead in (slice(2, 4), slice(None)):
        x = torch.randn(2, 5, 6, dtype=dtype)
        x[..., dead] = 0
        x.requires_grad_()
        grn(x).square().sum().backward()
        assert torch.isfinite(x.grad).all() and torch.isfinite(grn.gamma.grad).all()


@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("shape", [(5, 4), (3, 7, 4), (3, 7, 6, 4)])  # fewer positions than hidden features, and more
def test_grn_mlp(shape, batchnorm):
    mixer, x = lively(GrnMlp(4, batchnorm=batchnorm)), torch.randn(shape, requires_grad=True)
    for training in (True, False):
        mixer.train(training)
        y = plain_grn(F.gelu(mixer.fc1(x)), mixer.grn) @ mixer.fc2.weight.t()
        if batchnorm:
            y = F.batch_norm(
                y.flatten(0, -2),
                mixer.norm.running_mean.clone(),
                mixer.norm.running_var.clone(),
                mixer.norm.weight,
                mixer.norm.bias,
                training,
            ).view(shape)
        else:
            y = y + mixer.fc2.bias
        found = mixer(x)
        assert relative_error(found, y) < 1e-5
        inputs = [x, *mixer.parameters()]
        same_gradients(found.pow(3).sum(), y.pow(3).sum(), inputs)
    with torch.no_grad():
        assert relative_error(mixer(x), y) < 1e-5
    assert (mixer.fc2.bias is None) is batchnorm


@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_grn_mlp_merged(batchnorm, scaled):
    mixer, x = lively(GrnMlp(4, batchnorm=batchnorm)).eval(), torch.randn(3, 7, 6, 4)
    scale = torch.rand(4) if scaled else None
    expected = mixer(x) * (1 if scale is None else scale)
    mixer.reparameterize(scale)
    assert mixer.deployed and relative_error(mixer(x), expected) < 1e-5
    assert relative_error(mixer(x[:, 0]), plain_grn_without_beta(mixer, x[:, 0])) < 1e-5
    assert sum(p.numel() for p in mixer.parameters()) == (4 * 16 + 16) + 16 + (16 * 4 + 4)
    state = copy.deepcopy(mixer.state_dict())
    mixer.reparameterize()
    assert all(torch.equal(v, state[k]) for k, v in mixer.state_dict().items())
    mixer.reparameterize(torch.full((4,), 2.0))
    assert relative_error(mixer(x), 2 * expected) < 1e-5
    empty = GrnMlp(4, batchnorm=batchnorm, device="meta")
    empty.reparameterize(torch.empty(4, device="meta"))
    empty.to_empty(device="cpu").load_state_dict(mixer.state_dict())
    assert torch.equal(empty(x), mixer(x))


def plain_grn_without_beta(mixer: GrnMlp, x: torch.Tensor) -> torch.Tensor:
    grn = copy.deepcopy(mixer.grn)
    grn.beta = nn.Parameter(torch.zeros(16))
    return mixer.fc2(plain_grn(F.gelu(mixer.fc1(x)), grn))


def test_layers_around_the_norm_are_called_if_they_are_watched():
    mixer, x, calls = lively(GrnMlp(4)), torch.randn(3, 7, 6, 4), []
    expected = mixer(x)
    for layer in (mixer.fc1, mixer.grn, mixer.fc2):
        layer.register_forward_hook(lambda *a: calls.append(a))
    assert relative_error(mixer(x), expected) < 1e-5 and len(calls) == 3


# --- Both -------------------------------------------------------------------------------------------------------------

MIXERS = [
    ("token_mixer", "depthwise_conv"),
    ("token_mixer", "large_kernel"),
    ("token_mixer", "large_kernel(kernel_size=3)"),
    ("channel_mixer", "grn_mlp"),
    ("channel_mixer", "grn_mlp(batchnorm=True)"),
]


@pytest.mark.parametrize("kind, slot", MIXERS)
def test_mixers_compile_export_autocast_and_run_in_bf16(kind, slot):
    mixer = lively(zoo.create_block(kind, slot, dim=16))
    x = torch.randn(2, 14, 14, 16)
    before = {k: v.clone() for k, v in mixer.state_dict().items()}
    y = mixer(x)
    y.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in mixer.parameters())
    mixer.load_state_dict(before)
    compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)
    assert relative_error(compiled(x), y) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_error(mixer(x).float(), y) < 0.05
    mixer.eval()
    y = mixer(x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert relative_error(mixer(x).float(), y) < 0.05
    exported = torch.export.export(mixer, (x,)).module()
    assert relative_error(exported(x), y) < 1e-5
    with torch.no_grad():
        assert relative_error(copy.deepcopy(mixer).bfloat16()(x.bfloat16()).float(), y) < 0.05
    empty = zoo.create_block(kind, slot, dim=16, device="meta").to_empty(device="cpu")
    for module in empty.modules():
        initialise(module)
    assert torch.isfinite(empty.eval()(x)).all()


def test_an_adapter_in_place_of_a_layer_is_called():
    class Adapter(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, x):
            self.calls += 1
            return self.inner(x)

    for kind, slot in MIXERS:
        mixer, x = lively(zoo.create_block(kind, slot, dim=8)).eval(), torch.randn(2, 9, 9, 8)
        expected = mixer(x)
        layers = [
            (m, k) for m in mixer.modules() for k, c in m.named_children() if isinstance(c, (nn.Linear, nn.Conv2d))
        ]
        for parent, key in layers:
            setattr(parent, key, Adapter(getattr(parent, key)))
        assert relative_error(mixer(x), expected) < 1e-5
        assert [m.calls for m in mixer.modules() if isinstance(m, Adapter)] == [1] * len(layers), slot


def test_costs():
    count = lambda mixer: zoo.count_flops(mixer, inputs=torch.randn(1, 10, 12, 16)).macs
    mixer, rest = LargeKernel(16), 2 * 16 * 4
    assert count(mixer) == 10 * 12 * 16 * (13**2 + 101) + rest
    mixer.reparameterize()
    assert count(mixer) == 10 * 12 * 16 * 13**2 + rest
    assert count(GrnMlp(16, ratio=2, batchnorm=True)) == 10 * 12 * 2 * 16 * 32


def test_a_depthwise_layer_takes_torchs_layout():
    layer, x = DepthwiseConv2d(8, 7), torch.randn(2, 8, 9, 11)
    expected = F.conv2d(x, layer.weight, layer.bias, padding=3, groups=8)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert torch.allclose(conv_nhwc(layer, x.permute(0, 2, 3, 1)), expected.permute(0, 2, 3, 1), atol=1e-5)
