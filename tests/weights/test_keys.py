"""The rules read exactly what official checkpoints hold, and move every number of it to a place of its own.

tests/fixtures/keys has names and shapes of every tensor, taken once from the official code; its README says how.
"""

import json
import re
from collections.abc import Mapping

import pytest
import torch
from conftest import ROOT
from torch import Tensor

import zoo
from zoo.registry import cfgs_of, families
from zoo.weights import Rule, remap
from zoo.weights.inverse import published_keys

KEYS = ROOT / "tests" / "fixtures" / "keys"
LAYOUTS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(KEYS.glob("*.json"))}
RULES = {name: families()[name.partition("-")[0]].rules for name in LAYOUTS}

PLACE = re.compile(r"^\D*\d+(?:\.(?:blocks\.)?\d+)?")  # a block, or what else is there several times
FIXED = re.compile(r"\.rbf\.grid$")  # the model makes it itself, whatever the file says
# The reasons for which rules leave keys out, by layout.
TABLES = "tables that the model makes itself"
NO_WEIGHTS = {"a number that the experts' sizes say", "zero, and not trained"}
LEFT_OUT = {
    "swin-microsoft": {TABLES},
    "swinv2-microsoft": {TABLES},
    "swin_moe": {TABLES, *NO_WEIGHTS},
    "swin_moe-cosine": {TABLES, *NO_WEIGHTS},
    "mlp_kan": {"the perceptrons of DeiT, which the authors' blocks keep and do not use"},
}


# The layouts that go there and back in memory that a test may take, and those of them that take less than a second.
BACK = [
    name
    for name, facts in LAYOUTS.items()
    if sum(torch.Size(shape).numel() for shape in facts["keys"].values()) < 3e7
    and not any(map(FIXED.search, facts["keys"]))
]
QUICK = ("deit", "kat", "vit-google")


def rule_of(key: str, layout: str) -> Rule | None:
    """The rule that holds for a key, as `zoo.weights.rules.fit_of` chooses it."""
    keys = LAYOUTS[layout]["keys"]
    holding = (rule for rule in RULES[layout] if rule.when is None or any(map(rule.when.search, keys)))
    return next((rule for rule in holding if rule.pattern.search(key)), None)


def left_out(layout: str) -> dict[str, Rule]:
    """The keys of a layout that rules leave out."""
    found = {key: rule_of(key, layout) for key in LAYOUTS[layout]["keys"]}
    return {key: rule for key, rule in found.items() if rule is not None and rule.target is None}


def not_loaded(layout: str) -> set[str]:
    """The keys of a head, of a layout that is read without one, as a segmenter's by a classifier's backbone."""
    if LAYOUTS[layout]["arguments"].get("num_classes") != 0:
        return set()
    rules = {key: rule_of(key, layout) for key in LAYOUTS[layout]["keys"]}
    return {key for key, rule in rules.items() if rule is not None and str(rule.target).startswith("head.")}


def numbered(layout: str) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """Tensors of a layout, and where the numbers of each kind of them begin and end.

    Those that a rule works on hold every number once; those of one kind, the same in several blocks, share theirs,
    since what becomes of one becomes of all. What is moved as it is has no values, and what has to be 0 to be left out
    is 0.
    """
    kinds: dict[tuple, Tensor] = {}
    tensors, first = {}, 0
    for key, shape in LAYOUTS[layout]["keys"].items():
        rule = rule_of(key, layout)
        kind = PLACE.sub("", key, count=1), *shape
        if rule is not None and rule.zero:
            tensors[key] = torch.zeros(shape)
        elif rule is None or (rule.operation is None and rule.dim is None):
            tensors[key] = torch.empty(shape, dtype=torch.int32, device="meta")
        elif kind not in kinds:
            last = first + torch.Size(shape).numel()
            tensors[key] = kinds[kind] = torch.arange(first, last, dtype=torch.int32).reshape(shape)
            first = last
        else:
            tensors[key] = kinds[kind]
    return tensors, [(int(x.flatten()[0]), int(x.flatten()[-1]) + 1) for x in kinds.values()]


def check_places(source: Mapping[str, Tensor], ends: list[tuple[int, int]], arrived: Mapping[str, Tensor]) -> None:
    """Every number of the source has arrived once, with all those that it stood beside in its tensor."""
    checked = set()
    for key, tensor in arrived.items():
        view = None if tensor.is_meta else (tensor.data_ptr(), tensor.shape, tensor.stride())
        if view is None or view in checked:
            continue  # moved as it is, or another block's: the same numbers in the same order
        checked.add(view)
        low, high = map(int, tensor.aminmax())
        seen = torch.zeros(high - low + 1, dtype=torch.bool)
        seen[tensor - low] = True
        assert seen.sum() == tensor.numel(), f"{key} has a number twice"
        for first, last in ends:
            part = seen[max(first - low, 0) : max(last - low, 0)]
            assert not part.any() or (part.all() and len(part) == last - first), f"{key} has a part of a tensor"
    count = lambda tensors: sum(tensor.numel() for tensor in tensors.values())
    assert count(arrived) == count(source)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_rules_read_exactly_the_official_keys(layout):
    facts = LAYOUTS[layout]
    source, ends = numbered(layout)
    source = {key: tensor for key, tensor in source.items() if key not in not_loaded(layout)}
    target = zoo.create_model(facts["architecture"], device="meta", **facts["arguments"])
    arrived = remap(source, target.state_dict(), RULES[layout], layout)  # strict both ways, and in shapes
    dropped = left_out(layout)
    assert {rule.reason for rule in dropped.values()} == LEFT_OUT.get(layout, set())
    fixed = [key for key in source if FIXED.search(key)]
    made = [key for key, tensor in arrived.items() if tensor.dtype is not torch.int32]
    assert len(fixed) == len(made) and not set(made) & set(dict(target.named_parameters()))
    moved = {key: tensor for key, tensor in arrived.items() if key not in made}
    check_places({k: v for k, v in source.items() if k not in dropped and k not in fixed}, ends, moved)


@pytest.mark.parametrize(
    "layout", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in BACK]
)
def test_there_and_back_every_number_is_as_it_was(layout):
    facts, apart = LAYOUTS[layout], left_out(layout).keys() | not_loaded(layout)
    keys = {key: shape for key, shape in facts["keys"].items() if key not in apart}
    source = {key: torch.randint(-128, 128, shape, dtype=torch.int8) for key, shape in keys.items()}
    target = zoo.create_model(facts["architecture"], device="meta", **facts["arguments"]).state_dict()
    back = published_keys(remap(source, target, RULES[layout], layout), source, RULES[layout])
    assert list(back) == list(source) and all(torch.equal(back[key], source[key]) for key in source)


def test_a_rule_that_loses_numbers_would_be_seen():
    ends = [(0, 6), (6, 8)]
    source = {"a": torch.arange(6, dtype=torch.int32).reshape(2, 3), "b": torch.arange(6, 8, dtype=torch.int32)}
    check_places(source, ends, {"A": source["a"].T, "B": source["b"]})
    check_places(source, ends, {"AB": torch.cat([source["b"], source["a"].flatten()])})
    for wrong in (
        {"A": source["a"].roll(1, 0)[:1].expand(2, 3), "B": source["b"]},  # some twice
        {"A": source["a"].flatten()[:4], "B": torch.cat([source["a"].flatten()[4:], source["b"]])},  # torn apart
        {"A": source["a"]},
    ):
        with pytest.raises(AssertionError):
            check_places(source, ends, wrong)


@pytest.mark.parametrize("change", ["one more", "one less", "another shape"])
def test_other_keys_are_refused(change):
    keys = {key: torch.empty(shape, device="meta") for key, shape in LAYOUTS["vit-timm"]["keys"].items()}
    if change == "one more":
        keys["blocks.0.attn.rope"] = torch.empty(1, device="meta")
    elif change == "one less":
        del keys["blocks.11.mlp.fc2.bias"]
    else:
        keys["head.weight"] = torch.empty(10, 192, device="meta")
    target = zoo.create_model("vit_tiny_patch16_224", device="meta").state_dict()
    with pytest.raises(ValueError, match="rope|fc2.bias|head.weight"):
        remap(keys, target, RULES["vit-timm"])


def test_google_numbers_the_parts_of_a_block_in_two_ways():
    """Each kind by itself, or all parts of a block in one row, as in the older files."""
    older = {"LayerNorm_1/": "LayerNorm_2/", "Attention_0/": "Attention_1/", "MlpBlock_0/": "MlpBlock_3/"}
    state = {}
    for key, shape in LAYOUTS["vit-google"]["keys"].items():
        for new, old in older.items():
            key = key.replace(new, old)
        state[key] = torch.empty(shape, device="meta")
    assert not set(state) <= set(LAYOUTS["vit-google"]["keys"])
    target = zoo.create_model("vit_tiny_patch16_224", device="meta").state_dict()
    assert remap(state, target, RULES["vit-google"]).keys() == target.keys()


def test_every_family_with_published_weights_has_its_layouts():
    """And so has every family with rules; no rule is there that no layout needs."""
    named = {layout.partition("-")[0] for layout in LAYOUTS}
    for name, family in families().items():
        cfgs = [cfg for arch in family.variants for cfg in cfgs_of(arch).values()]
        if family.rules or any(cfg.url or cfg.hf_hub_id for cfg in cfgs):
            assert name in named, f"{name} needs tests/fixtures/keys/{name}.json"
    used = {rule_of(key, layout) for layout, facts in LAYOUTS.items() for key in facts["keys"]}
    for name, family in families().items():
        assert not [rule for rule in family.rules if rule not in used], f"{name} has rules for keys that nobody has"


def test_every_layout_says_what_it_is():
    for layout, facts in LAYOUTS.items():
        assert list(facts) == ["source", "architecture", "arguments", "keys"], layout
        assert zoo.model_info(facts["architecture"]).family == layout.partition("-")[0]
        assert re.match(r"timm \d+\.\d+\.\d+, |[\w-]+/[\w-]+@[0-9a-f]{12}, ", facts["source"]), layout
