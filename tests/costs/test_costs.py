"""Every full variant, built on meta: parameters and MACs against published figures, the authors' code, and formulas."""

import functools

import pytest
import timm
from conftest import FULL_VARIANTS, TIMM_VARIANTS, TINY_VARIANTS, sampled

import zoo
from zoo.family import FIGURES
from zoo.registry import families

ROWS = {name: row for family in families().values() for name, row in family.published.items()}
COUNTED = {name: row for family in families().values() for name, row in family.counted.items()}

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


def close(found: float, printed: float) -> bool:
    """Whether a count is what is printed, to a unit of the last digit, which may be cut off."""
    unit = 10.0 ** -len(str(printed).partition(".")[2])
    return abs(found - printed) <= (unit if unit > 0.01 else 0.006)


class Built:
    """A variant on meta, as it is trained and merged: parameters and MACs, in millions and billions."""

    def __init__(self, arch: str, img_size: tuple[int, int], num_classes: int):
        count = lambda model: sum(p.numel() for p in model.parameters()) / 1e6
        model = zoo.create_model(arch, num_classes=num_classes, img_size=img_size, device="meta")
        self.params = count(model)
        model.reparameterize()
        self.deploy_params, self.model = count(model), model

    @functools.cached_property
    def macs(self) -> float:
        report = zoo.count_flops(self.model)
        assert report.flops == 2 * report.macs
        return report.macs / 1e9


BUILT = functools.lru_cache(maxsize=16)(Built)  # weights of one architecture differ in size and classes at most


def built(name: str, num_classes: int | None = None) -> Built:
    """The model of a name, at the size of its images, with its own number of classes or another."""
    cfg = zoo.model_info(name).pretrained_cfg
    classes = cfg["num_classes"] if num_classes is None else num_classes
    return BUILT(name.split(".")[0], tuple(cfg["input_size"][-2:]), classes)


def by_arch(names) -> list[str]:
    return sorted({name.split(".")[0] for name in names})


def rows_of(arch: str, rows: dict) -> list[tuple]:
    return [(name, row) for name, row in rows.items() if name.split(".")[0] == arch]


@pytest.mark.parametrize("arch", sampled(by_arch(n for n, r in ROWS.items() if r.params or r.deploy_params), 2))
def test_parameters_are_the_published(arch):
    for name, row in rows_of(arch, ROWS):
        if row.params is not None:
            assert close(built(name, row.classes).params, row.params), name
        if row.deploy_params is not None or row.params is not None:
            assert close(built(name, row.classes).deploy_params, row.deploy_params or row.params), name


@pytest.mark.parametrize("arch", sampled(by_arch(n for n, r in ROWS.items() if r.macs), 1))
def test_macs_are_the_published(arch):
    """They were published for 1000 classes, whatever the weights have; some were published with few digits."""
    for name, row in rows_of(arch, ROWS):
        if row.macs is not None:
            macs = built(name, 1000).macs
            few = len(str(row.macs).replace(".", "")) < 3
            assert close(macs, row.macs) if few else macs == pytest.approx(row.macs, rel=0.01), name


@pytest.mark.parametrize("arch", sampled(by_arch(n for n, row in COUNTED.items() if "params" not in row.by_zoo), 1))
def test_parameters_are_those_of_the_authors_code(arch):
    for name, row in rows_of(arch, COUNTED):
        if "params" not in row.by_zoo:
            assert built(name).params == pytest.approx(row.params, abs=1e-9), name
            assert built(name).deploy_params == pytest.approx(row.deploy_params or row.params, abs=1e-9), name


AUTHORS = by_arch(n for n, row in COUNTED.items() if row.macs is not None and "macs" not in row.by_zoo)


@pytest.mark.parametrize("arch", sampled(AUTHORS, 1))
def test_macs_are_those_of_the_authors_code(arch):
    for name, row in rows_of(arch, COUNTED):
        if row.macs is not None and "macs" not in row.by_zoo:
            assert built(name, 1000).macs == pytest.approx(row.macs, rel=0.01), name


FORMULA = ("vmoe", "kat", "m3vit")  # whose counts by zoo are compared with formulas, below


@pytest.mark.parametrize("name", sampled((n for n, r in COUNTED.items() if r.by_zoo and not n.startswith(FORMULA)), 1))
def test_what_is_called_zoos_own_count_is_what_zoo_counts_now(name):
    """That what `model_info` prints is not out of date: a comparison of zoo with itself, which proves nothing else."""
    for figure in COUNTED[name].by_zoo:
        assert getattr(built(name), figure) == pytest.approx(getattr(COUNTED[name], figure), abs=0.0006), figure


# --- Sizes by formula: those of the sparse families and of KAT follow from their papers' tables -----------------------


def transformer(dim: int, depth: int, positions: int, patch: int, *, qkv_bias: int = 1) -> tuple[int, int]:
    """Parameters and MACs of a ViT without perceptrons and head: patches, positions, attention, norms."""
    patches, pixels = positions - 1, 3 * patch * patch
    params = pixels * dim + dim + dim + positions * dim
    params += depth * (4 * dim * dim + (3 * qkv_bias + 1) * dim + 4 * dim)
    macs = patches * pixels * dim + depth * (4 * dim * dim * positions + 2 * positions * positions * dim)
    return params, macs


def check_formula(name: str, params: int, macs: int) -> None:
    """The model's size and cost, and what the family's file says of them."""
    assert built(name).params == params / 1e6
    assert built(name).macs == pytest.approx(macs / 1e9, rel=1e-9)
    assert COUNTED[name].params == params / 1e6
    assert COUNTED[name].macs == pytest.approx(macs / 1e9, abs=0.0006)


def vmoe_by_formula(size: str, patch: int, place: str, img_size: int) -> tuple[int, int]:
    dim, depth = {"s": (512, 8), "b": (768, 12), "l": (1024, 24), "h": (1280, 32)}[size]
    positions = (img_size // patch) ** 2 + 1
    sparse = 2 if place == "last2" else depth // 2
    classes = 1000 if img_size == 384 or (size, place, patch) == ("s", "last2", 32) else 21843
    params, macs = transformer(dim, depth, positions, patch)
    perceptron, work = 8 * dim * dim + 5 * dim, 8 * dim * dim * positions
    params += (depth - sparse) * perceptron + sparse * 8 * (perceptron + dim) + 2 * dim + classes * (dim + 1)
    macs += (depth - sparse) * work + sparse * (2 * work + 8 * dim * positions) + classes * dim
    before = dim * dim if img_size == 224 and classes == 1000 else 0  # the layer before the classifier
    return params + bool(before) * (before + dim), macs + before


@pytest.mark.parametrize("name", sampled((name for name in COUNTED if name.startswith("vmoe")), 4))
def test_vmoe_by_formula(name):
    _, size, place, img_size = name.split("_")
    check_formula(name, *vmoe_by_formula(size[0], int(size[1:]), place, int(img_size)))


@pytest.mark.parametrize("name", [name for name in COUNTED if name.startswith("kat")])
def test_kat_by_formula(name):
    """ViT, and two rationals a block: 6 coefficients and 8 times 4, and 9 MACs for each number."""
    dim = {"tiny": 192, "small": 384, "base": 768}[name.split("_")[1]]
    params, macs = transformer(dim, 12, 197, 16)
    params += 12 * (8 * dim * dim + 5 * dim + 2 * (6 + 32)) + 2 * dim + 1000 * (dim + 1)
    macs += 12 * 197 * (8 * dim * dim + 9 * 5 * dim) + 1000 * dim
    check_formula(name, params, macs)


@pytest.mark.parametrize("name", [name for name in COUNTED if name.startswith("m3vit")])
def test_m3vit_by_formula(name):
    """Every second perceptron is 16 of a quarter of the width, four of them a token, with a gate for each task."""
    dim = {"tiny": 192, "small": 384, "base": 768}[name.split("_")[1]]
    (height, width), tasks = {"cityscapes": ((128, 256), 2), "nyud": ((480, 640), 2), "pascal": ((512, 512), 5)}[
        name.rsplit("_")[-1]
    ]
    positions = height * width // 256 + 1
    params, macs = transformer(dim, 12, positions, 16)
    params += 6 * (8 * dim * dim + 5 * dim) + 6 * (16 * (2 * dim * dim + 2 * dim) + 16 * tasks * dim)
    macs += positions * (6 * 8 * dim * dim + 6 * (4 * 2 * dim * dim + 16 * dim))
    check_formula(name, params, macs)


@pytest.mark.parametrize("name", [name for name in COUNTED if name.startswith("mlp_kan")])
def test_mlp_kan_by_formula(name):
    """In a block four perceptrons of 192 hidden features, and four times two norms and maps of 8 functions by 96."""
    dim = {"tiny": 192, "small": 384, "base": 768}[name.split("_")[2]]
    params, _ = transformer(dim, 12, 197, 16, qkv_bias=0)
    perceptron, network = 2 * 192 * dim + 192 + dim, 2 * dim + 2 * 96 + 2 * 8 * 96 * dim
    params += 12 * (4 * perceptron + 4 * network + 8 * dim) + 2 * dim + 1000 * (dim + 1)
    assert built(name).params == params / 1e6


@pytest.mark.parametrize("name", sampled(set(FULL_VARIANTS) - {n.split(".")[0] for n in (*ROWS, *COUNTED)}, 1))
def test_a_variant_without_figures_costs_what_timms_does_or_is_counted_whole(name):
    """Nobody has to publish or count a variant for it to be added; what it costs is known all the same."""
    report = zoo.count_flops(zoo.create_model(name, device="meta"))
    if name in TIMM_VARIANTS:
        theirs = zoo.count_flops(timm.create_model(name, device="meta"))
        assert report.params == theirs.params
        assert report.macs == pytest.approx(theirs.macs, rel=0.01)
    assert report.macs > 0 and {o.removeprefix("aten::") for o in report.uncounted} <= WITHOUT_MACS


def test_what_is_published_says_where_and_what_is_counted_says_by_whom():
    for name, row in ROWS.items():
        assert row.source, f"{name}: where are its figures published?"
    for name, row in COUNTED.items():
        figures = {figure for figure in FIGURES if getattr(row, figure) is not None}
        assert figures and set(row.by_zoo) <= figures, name
    text = str(zoo.model_info("vmoe_s32_last2_224"))
    published, counted = text.split("\nPublished:\n")[1].split("\nCounted:\n")
    assert "73.1 % top-1 (vmoe/configs" in published and "parameters" not in published
    assert "56.9994 M parameters, 1.567 G MACs by zoo" in counted
    counted = str(zoo.model_info("kat_tiny_patch16_224")).split("\nCounted:\n")[1]
    assert "5.718328 M parameters on the authors' code; 1.274 G MACs by zoo" in counted


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
