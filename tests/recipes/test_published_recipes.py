"""The recipes of papers: each is whole, says where it is from, and trains its family's test variant."""

import json
import random

import pytest

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from conftest import ROOT

import zoo
from recipes import train
from zoo.training import Trainer, load_recipe
from zoo.training.data.synthetic import Synthetic
from zoo.training.recipe.smoke import STEPS, smoke_of

IMAGENET = sorted((ROOT / "recipes" / "imagenet").glob("*.yaml"))
OF_ANY_MODEL = [ROOT / "recipes" / f"{name}.yaml" for name in ("finetune", "linear_probe", "segment")]
SOME = random.Random(0).sample([path.stem for path in IMAGENET], 3)


def marked(paths, some):
    """The recipes as parameters, of which all but some are slow."""
    return [
        pytest.param(path, id=path.stem, marks=() if path.stem in some else pytest.mark.slow) for path in sorted(paths)
    ]


@pytest.mark.parametrize("path", IMAGENET, ids=[path.stem for path in IMAGENET])
def test_a_published_recipe_is_whole(path):
    recipe = load_recipe(path)
    assert recipe.model.name == path.stem and zoo.model_info(path.stem).pretrained_cfg["num_classes"] == 1000
    assert recipe.source.startswith("arXiv 2") and (";" in recipe.source or "no code" in recipe.source)
    assert (recipe.expect.metric, recipe.expect.status, recipe.expect.value) == ("validation/top1", "untested", None)
    assert recipe.expect.published or recipe.expect.note
    assert recipe.optim.lr_batch == recipe.train.batch_size  # settled
    assert recipe.data.img_size == zoo.model_info(path.stem).pretrained_cfg["input_size"][-1]
    assert recipe.schedule.min_lr < recipe.optim.lr and recipe.schedule.warmup.count


@pytest.mark.parametrize("path", IMAGENET, ids=[path.stem for path in IMAGENET])
def test_what_is_published_is_what_the_family_says(path):
    """The accuracies of papers and of the released weights, which timm measured again, lie close together."""
    recipe, published = load_recipe(path), zoo.model_info(path.stem).published
    known = [row.top1 for name, row in published.items() if row.top1 and "in1k" in f"{name}.in1k".split(".")[1]]
    if recipe.expect.published is not None and known:
        assert min(abs(recipe.expect.published - top1) for top1 in known) < 0.5


@pytest.mark.parametrize("path", marked(IMAGENET, SOME))
def test_a_published_recipe_in_small(path, tmp_path):
    recipe = load_recipe(path)
    small = smoke_of(recipe)
    assert isinstance(small.data, Synthetic) and small.model.name.endswith("_test")
    for name in ("auto_augment", "re_prob", "re_mode", "repeats", "mean", "std", "crop_pct"):
        assert getattr(small.data, name) == getattr(recipe.data, name)
    assert (small.task, small.optim.name, small.train.ema) == (recipe.task, recipe.optim.name, recipe.train.ema)
    trainer = Trainer(small, tmp_path / "run")
    assert trainer.total == STEPS and "validation/top1" in trainer.run()


@pytest.mark.parametrize("path", marked(OF_ANY_MODEL, ["linear_probe"]))
def test_a_recipe_of_any_model_in_small(path, tmp_path):
    for model in ("swinv2_tiny_window8_256", "vit_tiny_patch16_224.augreg_in21k"):
        recipe = load_recipe(path, [f"model.name={model}"])
        size = zoo.model_info(model).pretrained_cfg["input_size"][-1]
        assert getattr(recipe.data, "img_size", size) == size
        metrics = Trainer(smoke_of(recipe), tmp_path / model).run()
        assert recipe.expect.metric.split("/")[1] in {name.split("/")[1] for name in metrics}


@pytest.mark.parametrize("name", ["conventional_denoise_digits", "moe_denoise_digits"])
def test_a_model_that_is_small_stays_in_small(name, tmp_path):
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    small = smoke_of(recipe)
    assert small.model == recipe.model and "test/psnr" in Trainer(small, tmp_path / "run").run()


def test_a_variant_for_digits_stays_in_small_and_gives_way_where_the_data_do():
    path = ROOT / "recipes" / "digits" / "mixer.yaml"
    recipe = load_recipe(path)
    assert smoke_of(recipe).model == recipe.model and smoke_of(recipe).data == recipe.data
    small = smoke_of(load_recipe(path, ["data={name: image_folder, root: pictures}"]))
    assert (small.model.name, small.model.kwargs) == ("mixer_test", {"in_chans": 1})
    assert (small.data.in_chans, small.data.img_size) == (1, 32)


def test_the_rates_belong_to_a_batch():
    path = ROOT / "recipes" / "imagenet" / "swin_tiny_patch4_window7_224.yaml"
    whole, half = load_recipe(path), load_recipe(path, ["train.batch_size=512"])
    assert (whole.optim.lr, whole.schedule.min_lr, whole.schedule.warmup_lr) == (1e-3, 1e-5, 1e-6)
    assert (half.optim.lr, half.schedule.min_lr, half.schedule.warmup_lr) == (5e-4, 5e-6, 5e-7)
    root = load_recipe(path, ["train.batch_size=2048", "optim.lr_rule=sqrt"])
    assert root.optim.lr == pytest.approx(5e-4 * 2)


def test_the_command_tries_a_recipe_and_keeps_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = str(ROOT / "recipes" / "imagenet" / "resmlp_12_224.yaml")
    train.main([path, "--smoke"])
    said = capsys.readouterr().out
    assert "nothing is kept" in said and "the recipe works" in said and not list(tmp_path.iterdir())
    train.main([path, "--smoke", "--json", "--output", "kept"])
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == "kept/model" and "validation/top1" in told["metrics"]
    assert load_recipe("kept/recipe.yaml").model.name == "resmlp_test"
    train.main([path, "--smoke", "--print"])
    assert "name: synthetic" in capsys.readouterr().out
