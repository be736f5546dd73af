"""models.json says what the registry says, of all that it has; what is newer than it need not be there."""

import functools
import json

import pytest
import timm
from conftest import ALL_VARIANTS, outside, sampled

import zoo
from zoo.registry import cfgs_of, families
from zoo.tools import index

STORED = json.loads(index.FILE.read_text("utf-8"))
COSTS = functools.partial(index._stored_costs, index._by_name(STORED))
WRITTEN = [name for name in ALL_VARIANTS if name in STORED["models"]]


def test_it_says_what_the_registry_says():
    if timm.__version__ != "1.0.31":
        pytest.skip("another timm has other configurations")
    for name in WRITTEN:
        assert index.model_entry(name, COSTS) == STORED["models"][name], f"{name} is old; run `make card`"
    assert not set(STORED["models"]) - set(ALL_VARIANTS), "models.json is old; run `make card`"
    assert {name: families()[name].about for name in STORED["families"]} == STORED["families"]
    assert list(STORED["models"]) == WRITTEN  # in natural order


@pytest.mark.parametrize("name", sampled(WRITTEN, 1))
def test_its_costs_are_those_that_are_counted(name):
    cfg = next(iter(cfgs_of(name).values()))
    first = next(each for each in STORED["models"][name]["configurations"] if each["classes"] == cfg.num_classes)
    fresh = index._counted(name, first["name"], cfgs_of(name)[first["name"]])
    assert fresh == {key: first[key] for key in index.COSTS}, "models.json is old; run `make card`"


def test_the_default_comes_first():
    for name in WRITTEN:
        cfg = zoo.model_info(name).pretrained_cfg
        first = STORED["models"][name]["configurations"][0]
        assert (first["classes"], tuple(first["input_size"])) == (cfg["num_classes"], tuple(cfg["input_size"])), name


def test_an_index_of_other_families_is_not_taken(tmp_path, monkeypatch):
    models = tmp_path / "models"
    models.mkdir()
    (models / "a.py").write_text("one")
    monkeypatch.setattr(index, "SOURCES", models)
    one, is_current = index.digest(), index.is_current.__wrapped__
    assert not is_current()
    monkeypatch.setattr(index, "stored", lambda: {"sources": one})
    assert is_current()
    (models / "a.py").write_text("two")
    two = index.digest()
    assert not is_current()
    (models / "a.py").rename(models / "b.py")
    renamed = index.digest()
    (models / "c.py").write_text("")
    assert len({one, two, renamed, index.digest()}) == 4


MINE = '''"""Mine: a family from outside.

Paper: none.
"""

from zoo.family import Counted, Family
from zoo.skeletons.isotropic import Isotropic

FAMILY = Family(
    model=Isotropic,
    defaults=dict(token_mixer="pool", channel_mixer="mlp"),
    variants={"mine_tiny": dict(dim=32, depth=1), "mine_test": dict(dim=8, depth=1, img_size=32)},
    counted={"mine_tiny": Counted(1.5, by_zoo=("params",))},
)
'''


def test_a_package_from_outside_is_asked(tmp_path):
    run = outside(tmp_path, "mine", {"family.py": MINE})
    done = run(
        "import json\nfrom zoo.tools.index import known\n"
        "print(json.dumps([known()['models'][name]['configurations'][0] for name in ('mine_tiny', 'mixer_s16_224')]))"
    )
    mine, mixer = json.loads(done.stdout)
    assert (mine["params"], mine["macs"], mine["active_params"]) == (1_500_000, None, None)
    assert mixer == STORED["models"]["mixer_s16_224"]["configurations"][0]
