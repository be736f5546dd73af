"""The heads that give numbers of every pixel, and WaveMix's against its authors' code."""

import pytest
import torch
from conftest import DATA, relative_error
from safetensors.torch import load_file

import zoo
from zoo.registry import families
from zoo.skeletons.dense import DenseModel, EnlargingHead
from zoo.weights import remap


def segmenter(name: str, **kwargs) -> DenseModel:
    backbone = zoo.create_model(name, features_only=True, **{"out_indices": (-1,), **kwargs})
    return DenseModel(backbone, num_classes=5, width=4, head="enlarging").eval()


def test_wavemixs_segmenter_has_its_authors_logits():
    tensors = {k: v.float() for k, v in load_file(DATA / "wavemix_segment.safetensors").items()}
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    slots = dict(stem="conv_patch(stride=2, patch=1)", token_mixer="wave(levels=2)")
    model = segmenter("wavemix_test", depth=1, **slots)
    body = {k: v for k, v in weights.items() if not k.startswith("expand.")}
    backbone = model.backbone.model
    backbone.load_state_dict(remap(body, backbone.state_dict(), families()["wavemix"].rules))
    names = {"expand.0": "up.0", "expand.1": "up.1", "expand.2": "logits"}
    head = {f"{names[k[:8]]}{k[8:]}": v for k, v in weights.items() if k not in body}
    model.head.load_state_dict(head)
    assert sum(p.numel() for p in model.parameters()) == sum(
        v.numel() for k, v in weights.items() if "running" not in k and "tracked" not in k
    )
    with torch.no_grad():
        assert relative_error(model(tensors["image"]), tensors["logits"]) < 1e-4


@pytest.mark.parametrize("name", ["poolformer_test", "swin_test", "wavemix_test"])
def test_the_enlarging_head_stands_on_any_last_map(name):
    model = segmenter(name).train()
    x = torch.randn(2, 3, 64, 96) if name == "poolformer_test" else torch.randn(2, 3, *model.backbone.model.img_size)
    y = model(x)
    assert y.shape == (2, 5, *x.shape[2:])
    y.square().mean().backward()
    assert all(p.grad is not None for p in model.head.parameters())


def test_a_stride_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="12 x 12 pixels"):
        EnlargingHead([8], stride=12, num_classes=2, width=4)
    head = EnlargingHead([8], stride=1, num_classes=2, width=4)
    assert head([torch.randn(1, 8, 3, 3)], (3, 3)).shape == (1, 2, 3, 3)
