"""The losses of routers keep the routers' gradients in whatever a model is run."""

import json

import pytest
import timm.layers
import torch
from moe_processes import batch, build, start, trains, transports
from timm.utils import ModelEmaV3
from torch.nn import functional as F

OPTIONS = {
    "noise": {"router": "top_k(noise=1.0, losses=('balance', 'z', 'load'))"},
    "glu": {"experts": "glu", "shared": "mlp", "dispatch": "capacity(factor=1.0)"},
    "mixers": {"experts": ["mlp", "glu"]},
}


@pytest.fixture(params=["vit_test", "swin_test"])
def name(request):
    return request.param


@pytest.fixture(params=OPTIONS)
def model(name, request):
    return build(OPTIONS[request.param], name)


def loss_of(run):
    x, y = batch()
    logits, aux = run(x, return_aux=True)
    assert {"loss/balance", "loss/z"} <= aux.keys()
    return F.cross_entropy(logits.float(), y) + aux["loss/balance"] + 0.1 * aux["loss/z"] + aux.get("loss/load", 0.0)


def gradients(model, run=None) -> dict[str, torch.Tensor]:
    """Of all parameters; the noise is the same each time."""
    model.zero_grad()
    torch.manual_seed(0)
    loss_of(model if run is None else run).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_kept(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    routers = [name for name in expected if "router" in name]
    assert routers and all(expected[name].abs().sum() > 0 for name in routers)
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=tolerance * scale + 1e-7, msg=name)


@pytest.fixture(params=[False, True], ids=["", "reentrant"])
def checkpointing(request):
    """Turns activation checkpointing of the one or the other kind on."""
    before = timm.layers.use_reentrant_ckpt()
    timm.layers.set_reentrant_ckpt(request.param)
    yield lambda model: model.set_grad_checkpointing()
    timm.layers.set_reentrant_ckpt(before)


def test_the_losses_reach_the_router(model):
    x, _ = batch()
    for loss in ("loss/balance", "loss/z"):
        model.zero_grad()
        model(x, return_aux=True)[1][loss].backward()
        assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "router" in n)


def test_both_kinds_of_activation_checkpointing(model, checkpointing):
    expected = gradients(model)
    checkpointing(model)
    assert_kept(gradients(model), expected)


FIRST = next(iter(OPTIONS))
PAIRS = [*(("vit_test", key) for key in OPTIONS), ("poolformer_test", "noise")]


@pytest.mark.parametrize(
    "name, options", [pytest.param(*pair, marks=[] if pair[1] == FIRST else [pytest.mark.slow]) for pair in PAIRS]
)
def test_compile(name, options):
    model = build(OPTIONS[options], name)
    expected = gradients(model)
    torch.compiler.reset()
    assert_kept(gradients(model, torch.compile(model, backend="aot_eager", fullgraph=True)), expected)


@pytest.mark.parametrize("name", ["vit_test", pytest.param("poolformer_test", marks=pytest.mark.slow)])
def test_compile_around_checkpointing(name, checkpointing):
    model = build(OPTIONS["noise"], name)
    expected = gradients(model)
    checkpointing(model)
    torch.compiler.reset()
    assert_kept(gradients(model, torch.compile(model, backend="aot_eager")), expected)


def test_autocast_with_loss_scaling(model):
    def run(x, return_aux):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x, return_aux=return_aux)

    expected = gradients(model, run)
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    torch.manual_seed(0)
    scaler.scale(loss_of(run)).backward()
    scaler.unscale_(optimizer)
    assert_kept({n: p.grad for n, p in model.named_parameters()}, expected)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if "router" in n}
    scaler.step(optimizer)
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)


def test_an_averaged_copy_reports_its_own(model):
    averaged = ModelEmaV3(model, decay=0.5)
    expected = gradients(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "router" in name:
                parameter.add_(1.0)
    model.zero_grad()
    copy = averaged.module.train()
    assert_kept(gradients(copy), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_several_processes(how, name):
    start(transports, 2, how, name, [{}, {"experts": ["mlp", "glu"], "top_k": 1, "collapsed": True}])


RECIPE = """\
task: {name: classify}
model:
  name: mixer_test
  kwargs: {img_size: 8, patch_size: 4, in_chans: 1, num_classes: 10, depth: 2, channel_mixer: "moe(experts=['mlp'])"}
aux_losses: {balance: 1.0, z: 0.1}
data: {name: digits}
train: {log_every: 1st, duration: 4st, batch_size: 64, eval_every: 4st, checkpoint_every: 4st, ema: 0.9, threads: 1}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: cosine, warmup: 1st}
expect: {metric: test/top1, status: untested}
"""


@pytest.mark.slow
def test_the_trainer_in_two_processes(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE, "utf-8")
    for processes in (1, 2):
        start(trains, processes, tmp_path / "recipe.yaml", tmp_path / str(processes))
    one, two = ((tmp_path / str(n) / "metrics.jsonl").read_text("utf-8").splitlines() for n in (1, 2))
    assert len(one) == len(two) > 4
    for line, other in zip(one, two, strict=True):
        line, other = ({k: v for k, v in json.loads(text).items() if "stat/" not in k} for text in (line, other))
        assert line.pop("loss/z", 0) == pytest.approx(other.pop("loss/z", 0), rel=0.1)  # the first process's own
        assert line == pytest.approx(other, rel=1e-4)
