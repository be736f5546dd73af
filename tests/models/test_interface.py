"""timm's model interface, on the tiny variant of every family."""

import copy

import pytest
import timm
import timm.optim
import torch
from conftest import TEST_VARIANTS, images, is_of_one_size, randomised

import zoo
from zoo.blocks.base import MetaBlock
from zoo.skeletons.isotropic import Isotropic

pytestmark = pytest.mark.parametrize("name", TEST_VARIANTS)


# What is never decayed, by the last part of its name.
FREE = ("bias", "gamma", "alpha", "beta", "cls_token", "pos_embed", "act.scale", "bias_table", "logit_scale")
FREE += ("numerator", "denominator", "rate", "translation", "gates.logits")


def create(name: str, **kwargs) -> torch.nn.Module:
    return randomised(zoo.create_model(name, **kwargs))


def last_grid(model: torch.nn.Module) -> tuple[int, int]:
    return tuple(side // model.feature_info[-1]["reduction"] for side in model.img_size)


def test_forward_and_its_parts(name):
    model = create(name)
    x = images(model)
    logits, features = model(x), model.forward_features(x)
    assert logits.shape == (2, model.num_classes) and torch.isfinite(logits).all()
    grid = model.grid if isinstance(model, Isotropic) else last_grid(model)
    tokens = (model.num_prefix_tokens + grid[0] * grid[1],) if model.output_fmt == "NLC" else grid
    assert features.shape == (2, *tokens, model.num_features)
    assert torch.equal(model.forward_head(features), logits)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)


def test_backward_reaches_every_parameter(name):
    model = create(name, num_classes=7).train()
    model(images(model)).square().mean().backward()
    learnt = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert [n for n, p in learnt if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_initialisation_is_finite_and_leaves_gradients(name):
    """Straight from create_model, heads of zeros included, training starts: some gradient reaches the classifier."""
    model = zoo.create_model(name)
    model(images(model)).logsumexp(1).sum().backward()
    assert any(p.grad.abs().sum() > 0 for p in model.head.parameters())
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
    assert create(name, num_classes=0, global_pool="")(images(model)).ndim > 2
    with pytest.raises(ValueError, match="num_classes is -2"):
        model.reset_classifier(-2)


@pytest.mark.parametrize("fmt", ["NCHW", "NHWC", "NLC"])
def test_forward_intermediates(name, fmt):
    model = create(name)
    x = images(model)
    final, maps = model.forward_intermediates(x, output_fmt=fmt)
    assert torch.equal(final, model.forward_features(x))
    assert len(maps) == len(model.feature_info) >= 3
    for found, info in zip(maps, model.feature_info, strict=True):
        channels = info["num_chs"]
        height, width = (side // info["reduction"] for side in model.img_size)
        shape = {
            "NCHW": (2, channels, height, width),
            "NHWC": (2, height, width, channels),
            "NLC": (2, height * width, channels),
        }
        assert found.shape == shape[fmt]
    last = model.forward_intermediates(x, [-1], norm=True, output_fmt=fmt, intermediates_only=True)[0]
    patches = last.permute(0, 2, 3, 1) if fmt == "NCHW" else last
    final = final.flatten(1, -2)[:, model.num_prefix_tokens :]
    assert torch.allclose(patches.reshape(2, -1, model.num_features), final, atol=1e-6)


def test_intermediates_stop_early_and_give_prefix_tokens(name):
    model = create(name)
    x = images(model)
    every = model.forward_intermediates(x, intermediates_only=True)
    assert torch.equal(model.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)[0], every[1])
    if model.num_prefix_tokens:
        maps, prefix = model.forward_intermediates(x, [0], return_prefix_tokens=True, intermediates_only=True)[0]
        assert torch.equal(maps, every[0]) and prefix.shape == (2, model.num_prefix_tokens, model.num_features)
    count = len(model.feature_info)
    for wrong in ([count], [-count - 1], count + 1, 0):
        with pytest.raises(ValueError, match="feature"):
            model.forward_intermediates(x, wrong)
    with pytest.raises(ValueError, match="output_fmt is 'NCL'; it must be one of"):
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


def test_maps_come_in_the_model_s_order_each_once(name):
    kept = zoo.create_model(name, features_only=True, out_indices=(0, -1)).eval()
    x = torch.randn(2, *kept.pretrained_cfg["input_size"])
    expected, last = kept(x), kept.out_indices[-1]
    for asked in ((last, 0), (-1, 0, last)):
        model = zoo.create_model(name, features_only=True, out_indices=asked).eval()
        model.load_state_dict(kept.state_dict())
        assert model.out_indices == [0, last] and model.feature_info.channels() == kept.feature_info.channels()
        assert all(torch.equal(a, b) for a, b in zip(model(x), expected, strict=True))


def test_prune(name, tmp_path):
    model = create(name)
    x, count = images(model), len(model.levels)
    expected = model.forward_intermediates(x, [count - 2], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([-2], prune_norm=True) == [count - 2]
    assert len(model.levels) == count - 1 and isinstance(model.head, torch.nn.Identity)
    assert model.num_features == expected.shape[1]
    assert torch.equal(model.forward_intermediates(x, 1, intermediates_only=True)[0], expected)
    zoo.save_pretrained(model, tmp_path)  # a pruned model travels too
    again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    assert torch.equal(again(x), model(x))


def test_grad_checkpointing_changes_nothing_but_memory(name):
    model = create(name).train()
    x, outcomes = images(model), []
    for enable in (False, True):
        copied = copy.deepcopy(model)
        copied.set_grad_checkpointing(enable)
        torch.manual_seed(1)  # of dropout and of the noise on routers
        copied(x).square().mean().backward()
        grads = [p.grad for p in copied.parameters() if p.requires_grad]
        outcomes.append(grads + [b.float() for b in copied.buffers()])  # batch norms count a batch once
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*outcomes, strict=True))


def test_groups_and_weight_decay(name):
    model = create(name)
    matcher = model.group_matcher()
    groups = timm.models.group_parameters(model, matcher)
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    blocks = sum(isinstance(m, MetaBlock) for m in model.modules())
    assert len(groups) >= blocks + 1
    assert len(timm.models.group_parameters(model, model.group_matcher(coarse=True))) <= len(groups)
    free = model.no_weight_decay()
    names = dict(model.named_parameters())
    assert free <= set(names)
    for parameter in names:
        expected = parameter.endswith(FREE) or any(part in parameter for part in ("norm", "_bn", "cpb_mlp", ".bn."))
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
        a, b = (t.float().std(correction=0) for t in (a, b))
        if built.state_dict()[key].numel() < 32:  # few random numbers differ by chance
            assert (a > 0) == (b > 0), key
        else:
            assert abs(a - b) < 0.3 * a + 1e-6, key


def test_input_sizes(name):
    """Twice the size at once, after set_input_size or at creation; where a size cannot be, one is told what to do."""
    model = create(name)
    height, width = model.img_size
    size = (2 * height, width)
    larger = torch.randn(1, model.in_chans, *size)
    if is_of_one_size(model):
        with pytest.raises(ValueError, match="create (the model|it) with (the )?img_size"):
            model(larger)
        with pytest.raises(ValueError, match="cannot be (resampled|moved)"):
            model.set_input_size(size)
        return
    if model._any_size:
        assert model(larger).shape == (1, model.num_classes)
    else:
        with pytest.raises(ValueError, match=rf"call model.set_input_size\(\({size[0]}, {size[1]}\)\)"):
            model(larger)
    model.set_input_size(size)
    assert model(larger).shape == (1, model.num_classes) and model.input_size == (3, *size)
    assert timm.models.get_model_input_config(model)["input_size"] == (3, *size)
    assert zoo.create_model(name, img_size=size)(larger).shape == (1, model.num_classes)
    with pytest.raises(ValueError, match="expected images"):
        model(torch.randn(1, 5, *size))
    if isinstance(model, Isotropic):
        with pytest.raises(ValueError, match="whole number of 8 x 8 patches"):
            model(torch.randn(1, 3, 60, 32))


def test_autocast_bf16_trains(name):
    model = create(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images(model)).float().square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_forward_leaves_the_model_as_it_was(name):
    """No counters, attributes or buffers are written by a forward pass, but for the statistics of batch norms."""
    model = create(name).train()
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    before = {k: v.clone() for k, v in model.state_dict().items() if not k.endswith(statistics)}
    attributes = [sorted(vars(m)) for m in model.modules()]
    model(images(model))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert [sorted(vars(m)) for m in model.modules()] == attributes
