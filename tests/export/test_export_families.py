"""The families' way out: their smallest variants in the formats that need nothing large, run and compared.

`benchmarks/exports.py` tries the other variants, and the formats of small devices.
"""

import random

import pytest
import torch
from conftest import randomised
from torch import nn

import zoo
from zoo.export import export_model, formats
from zoo.registry import families

TESTS = [name for family in families().values() for name in family.variants if name.endswith("_test")]
FIXED = {  # of a group of samples some choices are dropped, by a rule that depends on how many there are
    "vmoe_test": "Constraints violated",
}


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(zoo.create_model(name)).eval()


def only_torch(model: nn.Module) -> bool:
    return any(getattr(module, "only_torch", None) for module in model.modules())


# Every family goes one of the first two ways, which begin alike; compilation takes a quarter of a minute. The rest is
# for slow tests.
ORDER = random.Random(2).sample(TESTS, len(TESTS))
CHOSEN = {"onnx": ORDER[::3], "exported": ORDER[1::3] + ORDER[2::3], "aoti": ORDER[:1]}
CASES = [
    pytest.param(to, name, marks=[] if name in chosen else [pytest.mark.slow])
    for to, chosen in CHOSEN.items()
    for name in TESTS
]


@pytest.mark.parametrize(("to", "name"), CASES)
def test_every_family_is_exported(to, name, tmp_path):
    model = model_of(name)
    if only_torch(model) and not formats()[to].of_torch:
        with pytest.raises(ValueError, match="cannot be exported to onnx: it .*; export to exported or aoti"):
            export_model(model, tmp_path / "model", to)
        return
    if name in FIXED:
        with pytest.raises(ValueError, match=f"{FIXED[name]}.*; its program depends on the sizes: give dynamic_batch"):
            export_model(model, tmp_path / "model", to)
        assert export_model(model, tmp_path / "model", to, dynamic_batch=False).difference < 1e-4
        return
    assert export_model(model, tmp_path / "model", to).difference < 1e-4
