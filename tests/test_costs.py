"""Every full variant, built on meta: parameters and MACs against the published figures."""

import pytest
from conftest import FULL_VARIANTS, TINY_VARIANTS

import zoo
from zoo.registry import families

ROWS = {name: row for family in families().values() for name, row in family.published.items()}

# Element-wise work, reductions and pooling: no products, or products of norms and gates, which no published count has.
WITHOUT_MACS = {
    "add",
    "add_",
    "addcmul",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "clamp",
    "clamp_min",
    "div",
    "exp",
    "gelu",
    "group_norm",
    "layer_norm",
    "linalg_vector_norm",
    "logsumexp",
    "mean",
    "mul",
    "relu",
    "rsub",
    "sigmoid",
    "silu",
    "softmax",
    "square",
    "sub",
    "sum",
    "tanh",
} | {"argsort", "cumsum", "eq", "floor_divide", "index_put", "lt", "scatter_add", "sort", "topk"}  # routing: finds rows


@pytest.mark.parametrize("arch", sorted({name.split(".")[0] for name in ROWS}))
def test_parameters_and_macs_are_the_published(arch):
    count = lambda model: sum(p.numel() for p in model.parameters())
    models, reports = {}, {}  # weights of one architecture differ in the size of their images and their classes at most
    for name, row in ROWS.items():
        if name.split(".")[0] != arch:
            continue
        size = tuple(zoo.model_info(name).pretrained_cfg["input_size"])
        if (row.classes, size) not in models:
            model = zoo.create_model(name, device="meta")
            parameters = count(model)
            model.reparameterize()
            models[row.classes, size] = parameters, count(model)
            if row.classes != 1000:  # the published counts of these are those of the model with 1000 classes
                model.reset_classifier(1000)
            if size not in reports:
                reports[size] = zoo.count_flops(model)
        parameters, deployed = models[row.classes, size]
        assert parameters == pytest.approx(row.params * 1e6, abs=0.006e6), name
        assert deployed == pytest.approx((row.deploy_params or row.params) * 1e6, abs=0.006e6), name
        assert reports[size].macs == pytest.approx(row.macs * 1e9, rel=0.01), name
        assert reports[size].flops == 2 * reports[size].macs


def test_every_variant_has_published_figures_but_those_of_zoos_own_sizes():
    own = ("hourglass", "conventional", "kan_", "mlp_digits", "mlp_function", "mlp_image", "s_convkan", "sparse_mlp")
    assert {n.split(".")[0] for n in ROWS} >= {n for n in FULL_VARIANTS if not n.startswith(own)}


def test_attention_is_counted():
    """ViT-S/16: 4.6 G with the two products of attention, 4.25 G without."""
    report = zoo.count_flops(zoo.create_model("vit_small_patch16_224", device="meta"))
    attention = 12 * 2 * 197 * 197 * 384
    assert report.by_operator["scaled_dot_product_attention"] == attention
    assert (report.macs - attention) / 1e9 == pytest.approx(4.25, abs=0.01)


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_nothing_that_does_arithmetic_is_uncounted_and_unlisted(name):
    report = zoo.count_flops(zoo.create_model(name))
    listed = {operator.removeprefix("aten::") for operator in report.uncounted}
    assert listed <= WITHOUT_MACS, f"{listed - WITHOUT_MACS} do arithmetic; do they need a rule?"


def test_count_by_hand():
    """gMLP's block, from its docstring's formula."""
    dim, depth, tokens, hidden = 16, 3, 16, 96
    report = zoo.count_flops(zoo.create_model("gmlp_test"))
    block = tokens * 3 * dim * hidden // 2 + tokens * tokens * hidden // 2
    assert report.macs == depth * block + 3 * 32 * 32 * dim + dim * 10
    assert report.active_params == report.params == sum(p.numel() for p in zoo.create_model("gmlp_test").parameters())


@pytest.mark.parametrize(
    "slots",
    [
        dict(token_mixer="pool", channel_mixer="hourglass"),
        dict(token_mixer="attention(heads=2)", channel_mixer="glu"),
    ],
)
def test_recombined_models_are_counted(slots):
    dim, tokens = 32, 16
    report = zoo.count_flops(zoo.create_model("mixer_test", **slots))
    channel = {"hourglass": 2 * dim * 8, "glu": 3 * dim * 85}[slots["channel_mixer"]] * tokens
    token = {"pool": 0}.get(slots["token_mixer"], 4 * dim * dim * tokens + 2 * tokens * tokens * dim)
    assert report.macs == 3 * (token + channel) + 3 * 32 * 32 * dim + dim * 10
