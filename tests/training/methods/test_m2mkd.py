"""m2mKD: the published loss, parts that stand in a meta model, and a training in two phases."""

import pytest
import torch
from conftest import randomised
from safetensors.torch import load_file
from torch.nn import functional as F
from trainings import TINY, kill_at

import zoo
from zoo.training import Trainer, load_recipe
from zoo.training.methods.m2mkd import Part, module_loss

STUDENT = torch.tensor([[1.2, -0.7, 0.3, 2.1], [0.0, 0.5, -1.5, 0.9], [-0.4, 2.6, 0.8, -1.1]]).double()
TEACHER = torch.tensor([[3.1, 0.2, -0.6, 1.4], [-0.3, 0.1, 0.7, 2.2], [0.9, 1.8, 1.7, -2.0]]).double()
LABELS = torch.tensor([0, 3, 2])
SIZES = "img_size: 8, patch_size: 4, in_chans: 1"
DRAWN = f"{SIZES}, head: linear(init='trunc_normal')"  # a head of zeros would teach nothing
M2M = (
    f"methods.m2m={{name: m2mkd, modules: 2, until: 3st, teacher: vit_test, teacher_kwargs: {{{DRAWN}, depth: 4}}, "
    f"meta: vit_test, meta_kwargs: {{{DRAWN}, depth: 2}}}}"
)


# Of `m2mKDLoss` of kamanphoebe/m2mKD, deep_incubation/losses.py, in float64: alpha_teacher and tau.
@pytest.mark.parametrize("weight, tau, official", [(0.5, 1.0, 0.7545681484392055), (1.0, 4.0, 0.14537385821259186)])
def test_the_loss(weight, tau, official):
    loss = (1 - weight) * F.cross_entropy(STUDENT, LABELS) + weight * module_loss(STUDENT, TEACHER, tau)
    assert loss.item() == pytest.approx(official, abs=1e-7)


@pytest.mark.parametrize("number", range(3))
def test_a_part_stands_in_the_place_of_a_block(number):
    """Of the meta model itself it changes nothing; of another it is that model's blocks, between the meta model's."""
    meta = randomised(zoo.create_model("vit_test", depth=3))
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(Part(meta, meta, number, 3).eval()(x)[0], meta(x), atol=1e-6)
    model = randomised(zoo.create_model("vit_test", depth=6, dim=16))
    part = Part(model, meta, number, 3).eval()
    stitches = {name.split(".")[0] for name in part.state_dict()}
    assert stitches == {0: {"behind"}, 1: {"before", "behind"}, 2: {"before"}}[number]
    part(x)[0].square().sum().backward()
    reached = {name.partition(".")[0] + name.split(".")[1] * name.startswith("blocks") for name, p
               in model.named_parameters() if p.grad is not None}  # fmt: skip
    expected = {f"blocks{2 * number}", f"blocks{2 * number + 1}"}
    expected |= ({"stem", "tokens"} if number == 0 else set()) | ({"norm", "head"} if number == 2 else set())
    assert reached == expected


@pytest.fixture
def recipe(tmp_path):
    """Makes a tiny recipe of a mixture of experts, narrower than its teacher, with overrides."""
    path = tmp_path / "recipe.yaml"
    model = f"model={{name: vmoe_test, kwargs: {{{SIZES}, dim: 16, depth: 3}}}}"
    path.write_text(TINY)
    return lambda *overrides: load_recipe(path, [M2M, model, "aux_losses={importance: 0.01}", *overrides])


def test_the_parts_learn_first_and_then_the_whole(recipe, tmp_path):
    trainer = Trainer(recipe("train.duration=4st"), tmp_path / "run")
    effect = trainer.methods.effects["m2m"]
    assert len(effect.networks(2)) == 2 and not effect.networks(3)
    stitches = {name: value.clone() for name, value in effect.state_dict().items()}
    trainer.fit()
    assert stitches and all((value != effect.state_dict()[name]).any() for name, value in stitches.items())
    frozen = [one for part in effect.taught for one in part.models]
    assert not any(parameter.requires_grad or parameter.grad is not None for one in frozen for parameter in
                   one.parameters())  # fmt: skip


def test_a_resumed_run_is_bit_identical(recipe, tmp_path):
    Trainer(recipe(), tmp_path / "whole").run()
    kill_at(Trainer(recipe(), tmp_path / "killed"), 3)
    Trainer(recipe(), tmp_path / "killed").run()
    for file in ("model", "methods"):
        whole, resumed = (load_file(next((tmp_path / name).rglob(f"checkpoints/*/{file}.safetensors")))
                          for name in ("whole", "killed"))  # fmt: skip
        assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["methods.m2m.meta_kwargs.depth=3"], "methods.m2m.meta has 3 blocks; it must have one a module, 2"),
        (["methods.m2m.modules=5"], "methods.m2m: the model must be isotropic, of 5 blocks or more"),
        (["methods.m2m.meta_kwargs.dim=16"], "methods.m2m.meta is 16 wide, and the teacher 32"),
        (["methods.m2m.teacher_kwargs.patch_size=2"], r"the teacher has 1 class tokens on a grid of \(4, 4\), "),
        (["model={name: poolformer_test, kwargs: {img_size: 32, in_chans: 1}}", "data.size=32", "aux_losses={}",
          "methods.m2m.teacher_kwargs.img_size=32", "methods.m2m.meta_kwargs.img_size=32"], "model must be isotropic"),
    ],
)  # fmt: skip
def test_what_does_not_fit(recipe, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        Trainer(recipe(*overrides), tmp_path / "run")
