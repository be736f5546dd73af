"""What a recipe leaves to others: rates to the batch, classes to the data, the size of pictures to the model."""

import pytest

from zoo.training import RecipeError, Trainer, dump_recipe, load_recipe
from zoo.training.evaluation import load_data
from zoo.training.optim import create_optimizer, create_scheduler

TEXT = """\
task: {name: classify}
model: {name: hourglass_mlp_tiny, kwargs: {img_size: 8, dim: 32, depth: 1}}
data: {name: digits}
train: {duration: 4st, batch_size: 64, eval_every: 4st, checkpoint_every: 4st}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05, lr_batch: 256}
schedule: {name: cosine, warmup: 2st, warmup_lr: 4e-5, min_lr: 2e-5}
expect: {metric: test/top1, status: untested}
"""
MIXER = "model={name: mixer_s32_224, kwargs: {img_size: 8, patch_size: 4, in_chans: 1, dim: 16, depth: 1}}"
PICTURES = "data={name: image_folder, root: pictures}"


def test_all_rates_follow_the_batch_once(make_recipe, tmp_path):
    recipe = make_recipe()
    assert (recipe.optim.lr, recipe.schedule.warmup_lr, recipe.schedule.min_lr) == (2.5e-4, 1e-5, 5e-6)
    (tmp_path / "dump.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "dump.yaml") == recipe
    assert load_recipe(tmp_path / "dump.yaml", ["train.batch_size=256"]).optim.lr == 1e-3
    root = make_recipe("optim.lr_rule=sqrt")
    assert (root.optim.lr, root.schedule.min_lr) == (5e-4, 1e-5)
    assert make_recipe("optim.lr_batch=null").optim.lr == 1e-3


def test_a_rule_without_a_batch_is_refused(make_recipe):
    with pytest.raises(RecipeError, match="lr_rule has no effect without lr_batch"):
        make_recipe("optim.lr_batch=null", "optim.lr_rule=sqrt")


def test_the_warmup_begins_where_it_is_said_to(make_recipe):
    recipe = make_recipe()
    optimizer = create_optimizer(recipe.model.create(), recipe.optim)
    scheduler = create_scheduler(optimizer, recipe.schedule, steps=4, steps_per_epoch=19)
    rates = []
    for step in range(4):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-5, 1.3e-4, 2.5e-4, 1.275e-4])


def test_a_model_that_is_not_told_has_the_classes_of_the_data(make_recipe, tmp_path):
    recipe = make_recipe(MIXER)
    assert Trainer(recipe, tmp_path / "run").plain_model.num_classes == 10
    fitted = recipe.fitted(load_data(recipe))
    assert (
        fitted.model.kwargs == recipe.model.kwargs | {"num_classes": 10} and fitted.fitted(load_data(recipe)) == fitted
    )
    told = make_recipe(MIXER, "model.kwargs.num_classes=7")
    with pytest.raises(ValueError, match="has 7 classes, the data 10: set model.kwargs.num_classes=10"):
        Trainer(told, tmp_path / "told")
    as_it_is = make_recipe()  # ten by itself: the recipe stays the same, and with it the runs there are
    assert as_it_is.fitted(load_data(as_it_is)) == as_it_is


def test_pictures_come_as_the_model_takes_them(make_recipe):
    settled = {
        (): (8, 1),
        ("model={name: swinv2_tiny_window8_256}",): (256, 3),
        ("model={name: convnext_tiny.fb_in22k_ft_in1k_384}",): (384, 3),
        ("model={name: convnext_tiny, kwargs: {img_size: 96, in_chans: 1}}",): (96, 1),
        ("model={name: m3vit_tiny_patch16_cityscapes}",): (224, 3),  # it takes no squares
        ("model={name: 'timm:resnet18'}",): (224, 3),
        ("data.img_size=32", "data.in_chans=3"): (32, 3),
    }
    for more, (size, channels) in settled.items():
        data = make_recipe(PICTURES, *more).data
        assert (data.img_size, data.in_chans) == (size, channels), more
