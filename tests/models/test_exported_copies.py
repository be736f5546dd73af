"""Exported programs: what other runtimes would have to copy is no more than in timm's program of the same model."""

from collections import Counter

import pytest
import timm
import torch
from conftest import relative_error

import zoo

COPIES = ("permute", "transpose", "clone", "contiguous")


def program(model: torch.nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(model, (torch.randn(1, 3, 224, 224),))


def copies(exported: torch.export.ExportedProgram) -> Counter:
    names = Counter(part for node in exported.graph.nodes for part in str(node.target).split(".")[1:2])
    return Counter({name: names[name] for name in COPIES})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deit_tiny_patch16_224", {"depth": 2}),
        ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    ],
)
def test_no_more_transpositions_than_in_timms(name, options):
    ours = program(zoo.create_model(name, **options).eval())
    theirs = program(timm.create_model(name, **options).eval())
    assert copies(ours).total() <= copies(theirs).total()


def test_a_norm_over_the_whole_sample_has_none():
    norm = zoo.create_block("norm", "groupnorm", 8)
    torch.nn.init.uniform_(norm.weight), torch.nn.init.uniform_(norm.bias)
    x = torch.randn(2, 5, 6, 8)
    exported = torch.export.export(
        norm, (x,), dynamic_shapes=({1: torch.export.Dim("rows"), 2: torch.export.Dim("cols")},)
    )
    assert copies(exported).total() == 0
    for size in ((2, 5, 6, 8), (2, 7, 3, 8)):
        x = torch.randn(size)
        assert relative_error(exported.module()(x), norm(x)) < 1e-5
