"""timm's model interface, on the tiny variant of every family."""

import copy

import pytest
import timm
import timm.optim
import torch
from conftest import TEST_VARIANTS, images, randomised

import zoo

pytestmark = pytest.mark.parametrize("name", TEST_VARIANTS)


def create(name: str, **kwargs) -> torch.nn.Module:
    return randomised(zoo.create_model(name, **kwargs))


def test_forward_and_its_parts(name):
    model = create(name)
    x = images(model)
    logits, features = model(x), model.forward_features(x)
    assert logits.shape == (2, model.num_classes) and torch.isfinite(logits).all()
    assert features.shape[0] == 2 and features.shape[-1] == model.num_features and features.ndim == 3
    assert torch.equal(model.forward_head(features), logits)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)


def test_backward_reaches_every_parameter(name):
    model = create(name, num_classes=7).train()
    model(images(model)).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_initialisation_is_finite_and_leaves_gradients(name):
    """Straight from create_model, heads of zeros included, training starts: some gradient reaches the classifier."""
    model = zoo.create_model(name)
    model(images(model)).logsumexp(1).sum().backward()
    assert model.head.weight.grad.abs().sum() > 0
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_classifier(name):
    model = create(name)
    assert model.get_classifier() is model.head
    model.reset_classifier(4)
    assert model(images(model)).shape == (2, 4) and model.num_classes == 4
    model.reset_classifier(0)
    pooled = model(images(model))
    assert pooled.shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert model(images(model)).shape == model.forward_features(images(model)).shape
    assert create(name, num_classes=0, global_pool="")(images(model)).ndim == 3
    with pytest.raises(ValueError, match="num_classes is -2"):
        model.reset_classifier(-2)


@pytest.mark.parametrize("fmt", ["NCHW", "NHWC", "NLC"])
def test_forward_intermediates(name, fmt):
    model = create(name)
    x = images(model)
    final, maps = model.forward_intermediates(x, output_fmt=fmt)
    assert torch.equal(final, model.forward_features(x))
    assert len(maps) == len(model.feature_info) >= 3
    height, width = (side // model.feature_info[0]["reduction"] for side in model.img_size)
    channels = model.feature_info[0]["num_chs"]
    shape = {
        "NCHW": (2, channels, height, width),
        "NHWC": (2, height, width, channels),
        "NLC": (2, height * width, channels),
    }
    assert all(m.shape == shape[fmt] for m in maps)
    prefix = model.num_prefix_tokens
    last = model.forward_intermediates(x, [-1], norm=True, output_fmt=fmt, intermediates_only=True)[0]
    patches = last.permute(0, 2, 3, 1) if fmt == "NCHW" else last
    assert torch.allclose(patches.reshape(2, -1, channels), final[:, prefix:], atol=1e-6)


def test_intermediates_stop_early_and_give_prefix_tokens(name):
    model = create(name)
    x = images(model)
    every = model.forward_intermediates(x, intermediates_only=True)
    assert torch.equal(model.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)[0], every[1])
    if model.num_prefix_tokens:
        maps, prefix = model.forward_intermediates(x, [0], return_prefix_tokens=True, intermediates_only=True)[0]
        assert torch.equal(maps, every[0]) and prefix.shape == (2, model.num_prefix_tokens, model.num_features)
    for wrong in ([3], [-4], 4, 0):
        with pytest.raises(ValueError, match="feature"):
            model.forward_intermediates(x, wrong)
    with pytest.raises(ValueError, match="output_fmt 'NCL' is not one of"):
        model.forward_intermediates(x, output_fmt="NCL")


@pytest.mark.parametrize("factory", [zoo.create_model, timm.create_model])
def test_features_only(name, factory):
    if factory is timm.create_model and not timm.is_model(name):
        pytest.fail(f"{name} is not known to timm")
    model = factory(name, features_only=True, out_indices=(0, -1)).eval()
    x = torch.randn(2, *model.pretrained_cfg["input_size"])
    maps = model(x)
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [x.shape[-1] // m.shape[-1] for m in maps] == model.feature_info.reduction()


def test_prune(name, tmp_path):
    model = create(name)
    x = images(model)
    expected = model.forward_intermediates(x, [1], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([-2], prune_norm=True) == [1]
    assert len(model.levels) == 2 and isinstance(model.head, torch.nn.Identity)
    assert torch.equal(model.forward_intermediates(x, 1, intermediates_only=True)[0], expected)
    zoo.save_pretrained(model, tmp_path)  # a pruned model travels too
    again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    assert torch.equal(again(x), model(x))


def test_grad_checkpointing_changes_nothing_but_memory(name):
    model = create(name)
    x, grads = images(model), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))


def test_groups_and_weight_decay(name):
    model = create(name)
    matcher = model.group_matcher()
    groups = timm.models.group_parameters(model, matcher)
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    assert len(groups) >= len(model.blocks) + 1
    free = model.no_weight_decay()
    names = dict(model.named_parameters())
    assert free <= set(names)
    for parameter in names:
        expected = (
            parameter.endswith(("bias", "gamma", "alpha", "beta", "cls_token", "pos_embed")) or "norm" in parameter
        )
        assert (parameter in free) == expected, parameter
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    optimizer.step()


def test_copies_and_meta(name):
    model = create(name)
    x = images(model)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    built = zoo.create_model(name, device="meta")
    assert all(p.is_meta for p in built.parameters()) and all(b.is_meta for b in built.buffers())
    built = built.to_empty(device="cpu")
    built.init_weights()
    assert torch.isfinite(built.eval()(x)).all()
    plain = zoo.create_model(name)
    for (key, a), b in zip(plain.state_dict().items(), built.state_dict().values(), strict=True):
        assert abs(a.std(correction=0) - b.std(correction=0)) < 0.3 * a.std(correction=0) + 1e-6, key


def test_input_sizes(name):
    """Twice the size after set_input_size or at creation; a wrong size is told what to do."""
    model = create(name)
    height, width = model.img_size
    larger = torch.randn(1, model.in_chans, 2 * height, width)
    if name in ("hourglass_test", "conventional_test"):
        with pytest.raises(ValueError, match="create the model with the img_size"):
            model(larger)
        with pytest.raises(ValueError, match="cannot be resampled"):
            model.set_input_size((2 * height, width))
        return
    with pytest.raises(ValueError, match=r"call model.set_input_size\(\(64, 32\)\)"):
        model(larger)
    model.set_input_size((2 * height, width))
    assert model(larger).shape == (1, model.num_classes) and model.input_size == (3, 64, 32)
    assert timm.models.get_model_input_config(model)["input_size"] == (3, 64, 32)
    assert zoo.create_model(name, img_size=(64, 32))(larger).shape == (1, model.num_classes)
    with pytest.raises(ValueError, match="expected images"):
        model(torch.randn(1, 5, 64, 32))
    with pytest.raises(ValueError, match="whole number of 8 x 8 patches"):
        model(torch.randn(1, 3, 60, 32))


def test_compile(name):
    model = create(name)
    x = images(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), model(x), atol=1e-5)
    compiled(x).square().mean().backward()


def test_export(name):
    model = create(name)
    x = images(model)
    program = torch.export.export(model, (x,))
    assert torch.allclose(program.module()(x), model(x), atol=1e-5)


def test_autocast_bf16_trains(name):
    model = create(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images(model)).float().square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_forward_leaves_the_model_as_it_was(name):
    """No counters, attributes or buffers are written by a forward pass."""
    model = create(name).train()
    before = {k: v.clone() for k, v in model.state_dict(keep_vars=False).items()}
    attributes = [sorted(vars(m)) for m in model.modules()]
    model(images(model))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert [sorted(vars(m)) for m in model.modules()] == attributes
