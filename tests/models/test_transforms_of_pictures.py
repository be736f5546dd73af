"""`zoo.create_transform` prepares pictures as timm does for the same names, in the size that a model was made with."""

import numpy as np
import pytest
import timm
import torch
from conftest import TIMM_VARIANTS, sampled
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

import zoo
from zoo.hub import Sizes

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))


@pytest.mark.parametrize("name", sampled(TIMM_VARIANTS, 1))
def test_as_timm_does(name):
    """For the first tag and the last, which may have another crop, interpolation and size."""
    tags = list(timm.models.get_arch_pretrained_cfgs(name)) or [name]
    for tagged in {tags[0], tags[-1]}:
        with Sizes():  # no values are drawn
            theirs, ours = timm.create_model(tagged, device="meta"), zoo.create_model(tagged, device="meta")
        for training in (False, True):
            expected = create_transform(**resolve_model_data_config(theirs), is_training=training)
            assert repr(zoo.create_transform(ours, training)) == repr(expected), tagged


def test_the_size_is_the_models():
    model = zoo.create_model("mixer_test", img_size=48)
    x = zoo.create_transform(model)(PICTURE)
    assert x.shape == (3, 48, 48)
    expected = create_transform(**{**resolve_model_data_config(model), "input_size": (3, 48, 48)})
    assert torch.equal(x, expected(PICTURE)) and model(x[None]).shape == (1, 10)
    torch.manual_seed(0)
    drawn = [zoo.create_transform(model, training=True)(PICTURE) for _ in range(2)]
    assert drawn[0].shape == (3, 48, 48) and not torch.equal(*drawn)


def test_grey_pictures():
    model = zoo.create_model("vit_test", in_chans=1)
    grey = PICTURE.convert("L")
    x = zoo.create_transform(model)(grey)
    assert x.shape == (1, 32, 32)
    mean, std = (sum(model.pretrained_cfg[key]) / 3 for key in ("mean", "std"))
    raw = create_transform(**{**resolve_model_data_config(model), "input_size": (1, 32, 32), "mean": 0.0, "std": 1.0})
    assert torch.allclose(x, (raw(grey) - mean) / std, atol=1e-6)


def test_models_of_vectors_have_none():
    with pytest.raises(ValueError, match="takes inputs of .*no pictures"):
        zoo.create_transform(zoo.create_model("kan_test"))
