"""The sparse families: where their experts stand, their sizes, checkpoints and tasks, and mixtures over positions."""

import json

import numpy as np
import pytest
import torch
from conftest import DATA, images, randomised, relative_error
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.blocks.moe.layer import MoE
from zoo.blocks.token.position_bias import OffsetMlp
from zoo.blocks.token.token_mlp import TokenMlp
from zoo.blocks.token.token_moe import ReRepresent, TokenMoE
from zoo.blocks.token.window import WindowAttention
from zoo.registry import family_of


def parameters(name: str) -> int:
    return sum(p.numel() for p in zoo.create_model(name, device="meta").parameters())


def places(name: str) -> list[int]:
    """Indices of the sparse blocks, counted over all stages."""
    model = zoo.create_model(name, device="meta")
    blocks = model.blocks if hasattr(model, "blocks") else [b for stage in model.stages for b in stage.blocks]
    return [i for i, block in enumerate(blocks) if any(isinstance(m, MoE) for m in block.modules())]


# --- Sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, expected",
    [
        ("vmoe_s32_last2_224", [5, 7]),
        ("vmoe_b16_last2_224", [9, 11]),
        ("vmoe_b16_every2_224", [1, 3, 5, 7, 9, 11]),
        ("swin_moe_small_patch4_window12_192_8expert_32gpu_22k", [*range(5, 22, 2), 23]),
        ("swin_moe_base_patch4_window12_192_densebaseline_22k", []),
        ("mlp_kan_tiny_patch16_224", list(range(12))),
        ("m3vit_small_patch16_nyud", [1, 3, 5, 7, 9, 11]),
        ("sparse_mlp_b16_224", [9, 10, 11]),
    ],
)
def test_where_the_experts_stand(name, expected):
    assert places(name) == expected


@pytest.mark.parametrize(
    "name, expected",
    [
        ("vmoe_s32_last2_224", 56_999_400),
        ("vmoe_s32_last2_384", 56_785_384),
        ("vmoe_b16_every2_224", 300_974_931),
        ("vmoe_b16_every2_384", 285_238_504),
        ("mlp_kan_tiny_patch16_224", 23_470_504 - 3_550_464 - 12 * 4 * 16),  # without unused perceptrons and grids
        ("mlp_kan_small_patch16_224", 57_537_640 - 14_178_816 - 12 * 4 * 16),
        ("mlp_kan_base_patch16_224", 157_522_408 - 56_669_184 - 12 * 4 * 16),
    ],
)
def test_parameters_are_the_authors_to_the_last(name, expected):
    assert parameters(name) == expected


AUTHORS = {
    "small_patch4_window12_192_densebaseline_22k": (65_757_553, 0),
    "small_patch4_window12_192_8expert_32gpu_22k": (173_291_377, 8),
    "small_patch4_window12_192_16expert_32gpu_22k": (296_177_521, 16),
    "small_patch4_window12_192_32expert_32gpu_22k": (541_949_809, 32),
    "small_patch4_window12_192_cosine_router_32expert_32gpu_22k": (542_980_475, 32),
    "small_patch4_window12_192_64expert_64gpu_22k": (1_033_494_385, 64),
    "small_patch4_window12_192_128expert": (2_016_583_537, 128),
    "base_patch4_window12_192_densebaseline_22k": (109_284_049, 0),
    "base_patch4_window12_192_8expert_32gpu_22k": (300_372_689, 8),
    "base_patch4_window12_192_16expert_32gpu_22k": (518_746_833, 16),
    "base_patch4_window12_192_32expert_32gpu_22k": (955_495_121, 32),
    "base_patch4_window12_192_cosine_router_32expert_32gpu_22k": (956_841_179, 32),
    "base_patch4_window12_192_32expert_k2": (955_495_121, 32),
}


def test_swin_moes_parameters_are_the_authors_without_the_frozen_biases():
    """The authors' total counts a bias of zeros, not trained, as wide as the features, for every expert."""
    counted = family_of("swin_moe_test").counted
    assert set(counted) == {f"swin_moe_{name}" for name in AUTHORS}
    for name, (total, experts) in AUTHORS.items():
        width = 384 if name.startswith("small") else 512
        frozen = experts * (9 * width + 2 * width)
        assert counted[f"swin_moe_{name}"].params == pytest.approx((total - frozen) / 1e6, abs=1e-9)


def test_swin_moe_starts_narrowly_and_its_dense_baseline_does_not():
    tiny = dict(dims=(8, 8, 16, 64), num_classes=10, img_size=64)
    sparse = zoo.create_model("swin_moe_small_patch4_window12_192_8expert_32gpu_22k", depths=(1, 1, 2, 2), **tiny)
    dense = zoo.create_model("swin_moe_small_patch4_window12_192_densebaseline_22k", depths=(1, 1, 2, 2), **tiny)
    mixture = sparse.stages[3].blocks[1].channel_mixer
    projection = lambda model: model.stages[3].blocks[0].token_mixer.qkv
    for layer in (mixture.experts.fc1, mixture.router.gate, projection(sparse)):
        assert layer.weight.std().item() == pytest.approx(0.005, rel=0.15)
    assert projection(dense).weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert mixture.experts.fc2.bias is None and dense.stages[0].blocks[0].channel_mixer.fc2.bias is None


# --- V-MoE ------------------------------------------------------------------------------------------------------------


def in_flax_layout(model: nn.Module, heads: int) -> dict[str, np.ndarray]:
    """A model's parameters as the authors' code names and shapes them, part by part."""
    dim = model.num_features
    arrays = {
        "cls": model.tokens.cls_token,
        "Encoder/posembed_input/pos_embedding": model.tokens.pos_embed,
        "embedding/kernel": model.stem.proj.weight.permute(2, 3, 1, 0),
        "embedding/bias": model.stem.proj.bias,
        "Encoder/encoder_norm/scale": model.norm.weight,
        "Encoder/encoder_norm/bias": model.norm.bias,
    }
    last = model.head
    if not isinstance(last, nn.Linear):
        arrays |= {"pre_logits/kernel": last.fc1.weight.t(), "pre_logits/bias": last.fc1.bias}
        last = last.fc2
    arrays |= {"head/kernel": last.weight.t(), "head/bias": last.bias}
    for i, block in enumerate(model.blocks):
        prefix = f"Encoder/encoderblock_{i}/"
        for j, norm in enumerate((block.norm1, block.norm2)):
            arrays |= {f"{prefix}LayerNorm_{j}/scale": norm.weight, f"{prefix}LayerNorm_{j}/bias": norm.bias}
        attention = block.token_mixer
        for j, part in enumerate(("query", "key", "value")):
            rows = slice(j * dim, (j + 1) * dim)
            arrays[f"{prefix}SelfAttention/{part}/kernel"] = attention.qkv.weight[rows].t().reshape(dim, heads, -1)
            arrays[f"{prefix}SelfAttention/{part}/bias"] = attention.qkv.bias[rows].reshape(heads, -1)
        arrays[f"{prefix}SelfAttention/out/kernel"] = attention.proj.weight.t().reshape(heads, -1, dim)
        arrays[f"{prefix}SelfAttention/out/bias"] = attention.proj.bias
        mixer, name = block.channel_mixer, "Mlp"
        if isinstance(mixer, MoE):
            arrays[f"{prefix}Moe/Router/dense/kernel"] = mixer.router.gate.weight.t()
            mixer, name = mixer.experts, "Moe/Mlp"
        for j, layer in enumerate((mixer.fc1, mixer.fc2)):
            arrays[f"{prefix}{name}/Dense_{j}/kernel"] = layer.weight.mT
            arrays[f"{prefix}{name}/Dense_{j}/bias"] = layer.bias
    return {key: value.detach().numpy() for key, value in arrays.items()}


@pytest.mark.parametrize("prefix", ["params/", ""])
@pytest.mark.parametrize("head", ["tanh", "linear"])
def test_vmoe_reads_the_arrays_of_flax(head, prefix, tmp_path):
    model = randomised(zoo.create_model("vmoe_test", head=head))
    np.savez(tmp_path / "flax.npz", **{prefix + k: v for k, v in in_flax_layout(model, heads=4).items()})
    again = zoo.create_model("vmoe_test", head=head, checkpoint_path=tmp_path / "flax.npz")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_vmoe_says_which_part_of_a_projection_is_missing(tmp_path):
    arrays = in_flax_layout(zoo.create_model("vmoe_test"), heads=4)
    del arrays["Encoder/encoderblock_2/SelfAttention/key/bias"]
    np.savez(tmp_path / "flax.npz", **arrays)
    with pytest.raises(ValueError, match=r"source lacks \(1\): blocks.2.token_mixer.qkv.bias"):
        zoo.create_model("vmoe_test", checkpoint_path=tmp_path / "flax.npz")


def test_a_damaged_or_pickled_npz_is_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    np.savez(tmp_path / "good.npz", a=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:100])
    for name in ("objects.npz", "cut.npz"):
        with pytest.raises(ValueError, match=f"{name} is not a whole file of numpy arrays"):
            zoo.create_model("vmoe_test", checkpoint_path=tmp_path / name)


def test_vmoe_starts_with_as_many_chances_as_classes():
    model = zoo.create_model("vmoe_test").eval()
    logits = model(images(model))
    assert torch.allclose(logits.exp(), torch.full_like(logits, 1 / 10))


@pytest.mark.parametrize(
    "name, trained, evaluated", [("vmoe_s32_last2_224", 108, 400), ("vmoe_s32_last2_384", 152, 152)]
)
def test_vmoes_rooms_are_the_configurations(name, trained, evaluated):
    """Eight images of 50 tokens with two choices among eight experts: 100 an expert, and multiples of four."""
    dispatch = zoo.create_model(name, device="meta").blocks[-1].channel_mixer.dispatch
    assert dispatch.train().room(400, 2, 8) == trained and dispatch.eval().room(400, 2, 8) == evaluated


# --- Checkpoints of SwinV2-MoE ----------------------------------------------------------------------------------------


def reference(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    with safe_open(DATA / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - it is no mapping
        return json.loads(file.metadata()["arguments"]), tensors


def test_biases_that_the_model_has_no_place_for_have_to_be_zero():
    arguments, tensors = reference("swin_moe")
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    overlay = {"state_dict": weights, "num_classes": 10}
    zoo.create_model("swin_moe_test", pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    key = next(k for k in weights if k.endswith("batched_fc2_bias"))
    weights[key] = weights[key] + 1
    with pytest.raises(ValueError, match=f"no place for .*{key}"):
        zoo.create_model("swin_moe_test", pretrained=True, pretrained_cfg_overlay=overlay, **arguments)


def test_continuous_biases_are_a_network_without_bounds_and_without_cosines():
    mixer = WindowAttention(8, window_size=2, heads=2, continuous=True, grid=(4, 4))
    assert mixer.logit_scale is None and mixer.relative_position_bias_table is None and mixer.qkv.bias is not None
    offsets = mixer.relative_coords_table
    plain = F.linear(F.relu(mixer.cpb_mlp[0](offsets)), mixer.cpb_mlp[2].weight)
    assert torch.equal(mixer.cpb_mlp(offsets), plain)
    bounded = OffsetMlp(2)
    bounded.load_state_dict(mixer.cpb_mlp.state_dict())
    assert torch.allclose(bounded(offsets), 16 * plain.sigmoid())
    mixer.set_grid((6, 6), 3)
    assert mixer(torch.randn(1, 6, 6, 8)).shape == (1, 6, 6, 8)
    assert WindowAttention(8, continuous=True, pretrained_window=4, grid=(4, 4)).pretrained_window == 4
    with pytest.raises(ValueError, match="not both"):
        WindowAttention(8, cosine=True, continuous=True, grid=(4, 4))


# --- M3ViT ------------------------------------------------------------------------------------------------------------


def test_m3vit_works_on_the_task_that_it_is_told():
    """The authors' features for both tasks, from the same weights."""
    arguments, tensors = reference("m3vit")
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    overlay = {"state_dict": weights, "num_classes": 0}
    model = zoo.create_model("m3vit_test", pretrained=True, pretrained_cfg_overlay=overlay, **arguments).eval()
    first = model(tensors["image"])
    second = model(tensors["image"], task=1)
    assert (
        relative_error(first, tensors["logits"]) < 1e-4 and relative_error(second, tensors["logits_of_task_1"]) < 1e-4
    )
    assert relative_error(second, first) > 0.1
    with pytest.raises(ValueError, match="task is 2; .* has 2 tasks"):
        model(tensors["image"], task=2)


def test_only_the_gate_of_the_asked_task_learns():
    model = randomised(zoo.create_model("m3vit_test")).train()
    model(images(model), task=1).square().sum().backward()
    grad = model.blocks[1].channel_mixer.router.gate.weight.grad
    assert grad[0].abs().sum() == 0 and grad[1].abs().sum() > 0


def test_m3vits_backbones_give_maps_and_take_a_classifier():
    backbone = zoo.create_model("m3vit_tiny_patch16_cityscapes", features_only=True, out_indices=(2, 11)).eval()
    assert [m.shape for m in backbone(torch.randn(1, 3, 128, 256))] == [(1, 192, 8, 16)] * 2
    model = zoo.create_model("m3vit_tiny_patch16_cityscapes", num_classes=7)
    assert model(torch.randn(1, 3, 128, 256)).shape == (1, 7)


# --- MLP-KAN ----------------------------------------------------------------------------------------------------------


def test_faster_kan_is_its_formula():
    mixer, x = zoo.create_block("channel_mixer", "faster_kan(hidden=3)", 5), torch.randn(4, 5)
    grid, y = torch.linspace(-2, 2, 8), x
    for norm, layer in ((mixer.norm1, mixer.fc1), (mixer.norm, mixer.fc2)):
        bumps = 1 - torch.tanh((norm(y)[..., None] - grid) / 0.33) ** 2  # (N, in, 8)
        y = torch.einsum("nig,ogi->no", bumps, layer.weight)
    assert torch.allclose(mixer(x), y, atol=1e-6)
    bound = (6 / (5 * 8 + 3)) ** 0.5
    assert bound * 0.9 < mixer.fc1.weight.abs().max() <= bound


# --- Unlike experts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", ["dropless", "capacity(factor=0.5)"])
def test_unlike_experts_compute_the_same_when_compiled(dispatch):
    experts = ["mlp(ratio=2)", "glu", "faster_kan"]
    layer = MoE(8, num_experts=3, top_k=2, experts=experts, router="top_k(losses=())", dispatch=dispatch).eval()
    x = torch.randn(2, 9, 8)
    compiled = torch.compile(lambda x: layer(x)[0], backend="aot_eager", fullgraph=True)
    outcomes = []
    for run in (lambda x: layer(x)[0], compiled):
        layer.zero_grad()
        y = run(x)
        y.square().sum().backward()
        outcomes.append([y, *(p.grad.clone() for p in layer.parameters())])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*outcomes, strict=True))


# --- Mixtures over positions ------------------------------------------------------------------------------------------


def test_token_moe_gives_each_channel_to_its_experts():
    """Against a loop over samples and channels."""
    mixer = randomised(TokenMoE(6, num_experts=3, top_k=2, hidden=5, grid=(2, 4)), std=0.5)
    x = torch.randn(2, 2, 4, 6)
    found, aux = mixer(x)
    gate, fc1, fc2 = mixer.moe.router.gate, mixer.moe.experts.fc1, mixer.moe.experts.fc2
    expected = torch.zeros(2, 8, 6)
    for b in range(2):
        for c in range(6):
            channel = x[b, :, :, c].flatten()
            top, chosen = (gate.weight @ channel).topk(2)
            for weight, e in zip(top.softmax(0), chosen.tolist(), strict=True):
                hidden = F.gelu(fc1.weight[e] @ channel + fc1.bias[e])
                expected[b, :, c] += weight * (fc2.weight[e] @ hidden + fc2.bias[e])
    assert torch.allclose(found, expected.view(2, 2, 4, 6), atol=1e-5)
    assert aux["stat/load"].shape == (3,) and "loss/balance" in aux


def test_token_moe_with_one_expert_is_a_token_mlp_on_any_grid():
    sparse, dense = TokenMoE(6, num_experts=1, hidden=5, grid=(3, 4)), TokenMlp(6, hidden=5, grid=(3, 4))
    with torch.no_grad():
        for stacked, layer in ((sparse.moe.experts.fc1, dense.fc1), (sparse.moe.experts.fc2, dense.fc2)):
            layer.weight.copy_(stacked.weight[0])
            layer.bias.copy_(stacked.bias[0])
    for grid in ((3, 4), (6, 6), (2, 5)):
        for mixer in (sparse, dense):
            mixer.set_grid(grid)
        x = torch.randn(2, *grid, 6)
        assert torch.allclose(sparse(x)[0], dense(x), atol=1e-6)


def test_token_moe_routes_a_constant_image_alike_on_both_grids():
    mixer = randomised(TokenMoE(6, num_experts=4, top_k=1, grid=(4, 4)))
    x = torch.randn(2, 1, 1, 6)
    logits = lambda side: mixer.moe.router.logits(x.expand(2, side, side, 6).flatten(1, 2).mT)
    before = logits(4)
    mixer.set_grid((8, 8))
    assert relative_error(logits(8), before) < 0.05, "but for what bicubic interpolation loses at the edges"
    assert mixer.moe.router.gate.in_features == 64


def test_token_moe_says_which_routers_cannot_move():
    mixer = TokenMoE(6, router="task(tasks=2, design='embedding')", grid=(2, 2))
    with pytest.raises(ValueError, match="Task router of token_moe has inputs other than the 4 positions"):
        mixer.set_grid((4, 4))


def test_re_represent_is_its_maps_around_a_block():
    mixer = ReRepresent(6, tokens=3, ratio=1.5, token_mixer="pool", channel_mixer="mlp", grid=(2, 4))
    x = torch.randn(2, 2, 4, 6)
    inside = F.linear(
        mixer.fewer_tokens.weight @ x.flatten(1, 2) + mixer.fewer_tokens.bias[:, None], mixer.more_channels.weight
    )
    assert inside.shape == (2, 3, 9) and not mixer.has_aux
    outside = mixer.fewer_channels(mixer.block(inside + mixer.more_channels.bias))
    expected = mixer.more_tokens.weight @ outside + mixer.more_tokens.bias[:, None]
    assert torch.allclose(mixer(x), expected.view(x.shape), atol=1e-6)
    mixer.set_grid((4, 4))
    assert mixer(torch.randn(2, 4, 4, 6)).shape == (2, 4, 4, 6) and mixer.block.token_mixer is not None
    with pytest.raises(ValueError, match="tokens is 0; it must be from 1"):
        ReRepresent(6, tokens=0, grid=(2, 4))


def test_no_image_of_a_batch_changes_what_sparse_mlp_says_of_another():
    model = randomised(zoo.create_model("sparse_mlp_test"))
    x = images(model, 3)
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-6)
    aux = model(x, return_aux=True)[1]
    assert len(aux["stat/load"]) == 2, "both stages report"
