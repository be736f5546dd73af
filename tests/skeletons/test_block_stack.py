"""The stack of blocks that skeletons share, without the interface of images; arguments, slots and their shorthands."""

import functools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from zoo.blocks.base import mean_losses
from zoo.blocks.init import TruncNormal
from zoo.checks.ranges import Depth, Width
from zoo.skeletons.blocks import BlockArguments, BlockModel
from zoo.skeletons.hierarchical import Hierarchical
from zoo.skeletons.image import ImageModel
from zoo.skeletons.isotropic import Isotropic
from zoo.slots import build_block, parse_slot

# --- A model of texts, on the stack alone -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TextArguments(BlockArguments):
    dim: Width
    depth: Depth
    words: int = 16
    memory: object = "identity"


class Text(BlockModel):
    """Words to the next words, ``(B, N) -> (B, N, words)``."""

    Arguments = TextArguments
    slots = {**BlockModel.slots, "memory": "token_mixer"}
    vision = False

    def _build(self, arguments, **place):
        self.embed = nn.Embedding(arguments.words, arguments.dim, **place)
        stack = self._stack(arguments, [arguments.dim], [arguments.depth], **place)
        self.levels = nn.Sequential(*stack.blocks(0, (8,)))
        self.memory = build_block("token_mixer", arguments.memory, arguments.dim, grid=(8,), **place)
        self.norm = stack.final_norm()

    def forward(self, x, return_aux=False, **keywords):
        y, aux = self._run_all(self.embed(x), keywords)
        y = self.norm(self.memory(y)) @ self.embed.weight.T
        return (y, mean_losses(aux)) if return_aux else y


def text(**kwargs):
    options = dict(dim=8, depth=2, token_mixer="depthwise_conv(kernel_size=3)", channel_mixer="mlp(ratio=2)")
    return Text(**options | kwargs)


def test_a_model_of_texts_needs_no_images():
    assert not issubclass(Text, ImageModel) and not hasattr(Text, "forward_intermediates")
    model, x = text(channel_mixer=["mlp", "moe(num_experts=2, top_k=1)"]), torch.randint(16, (2, 8))
    y, aux = model(x, return_aux=True)
    (y.square().mean() + aux["loss/balance"]).backward()
    assert y.shape == (2, 8, 16) and all(p.grad is not None for p in model.parameters())
    assert [slot.name for slot in model.config["channel_mixer"]] == ["mlp", "moe"]


def test_checkpointing_of_a_stack_gives_the_same_gradients():
    model, x = text().double(), torch.randint(16, (2, 8))
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        gradients.append(torch.autograd.grad(model(x).square().mean(), list(model.parameters())))
    assert all(map(torch.equal, *gradients))


def test_a_keyword_reaches_the_mixers_that_declare_it():
    router = {"name": "task", "tasks": 2}
    model = text(channel_mixer={"name": "moe", "num_experts": 2, "top_k": 1, "router": router})
    x = torch.randint(16, (2, 8))
    assert model.keywords == {"task"}
    assert not torch.equal(model(x, task=0), model(x, task=1))
    with pytest.raises(TypeError, match="no mixer of this Text takes the keyword 'mask'; they take task"):
        model(x, mask=None)


def test_a_skeleton_declares_its_slots_and_arguments():
    assert isinstance(text(memory="pool").memory, zoo.blocks.Pool)
    assert {"memory", "dim", "token_mixer", "device"} <= set(Text.argument_names())
    with pytest.raises(TypeError, match="depht"):
        text(depht=3)
    with pytest.raises(TypeError, match="depht"):
        text(depht=3)
    with pytest.raises(ValueError, match="Text: depth is 0"):
        text(depth=0)


def test_the_arguments_that_skeletons_share_are_said_once():
    shared = set(BlockModel.slots) & set(Isotropic.slots) & set(Hierarchical.slots)
    assert shared == set(BlockModel.slots)
    for name in ("form", "res_scale", "drop_path_rule", "pool_first"):
        assert name in Isotropic.argument_names() and name in Hierarchical.argument_names()


@pytest.mark.parametrize("name", ["mixer_test", "swin_test"])
def test_what_one_skeleton_had_alone_both_have(name):
    model = zoo.create_model(name, form="post", res_scale=0.5, drop_path_rule="constant", drop_path_rate=0.2)
    blocks = [module for module in model.modules() if isinstance(module, zoo.blocks.MetaBlock)]
    assert {block.form for block in blocks} == {"post"} and {block.drop_path.drop_prob for block in blocks} == {0.2}
    assert all((block.res_scale1.gamma == 0.5).all() for block in blocks)


# --- Options of slots under names of their own ------------------------------------------------------------------------


def test_a_shorthand_is_an_option_of_its_slot():
    model = zoo.create_model("vit_test", class_token=False, global_pool="avg", head_init="xavier", stem_init="zeros")
    (embed,), (head,), (stem,) = (model.config[name] for name in ("embed", "head", "stem"))
    assert (embed.options["class_token"], head.options, stem.options) == (
        *(False, {"init": "xavier"}),
        {"init": "zeros"},
    )
    assert model.tokens.cls_token is None and not model.stem.proj.weight.any() and "class_token" not in model.config


def test_a_shorthand_and_its_slot_go_together():
    model = zoo.create_model("mixer_test", head="mlp(ratio=2)", head_init="xavier")
    assert model.config["head"] == [parse_slot("mlp(ratio=2, init='xavier')")]
    assert model.head.fc1.out_features == 64


def test_a_shorthand_that_its_block_has_no_option_for_is_an_error():
    with pytest.raises(ValueError, match="kat_test: token_std=0.5 is given, and no part takes it"):
        zoo.create_model("kat_test", embed="none", token_std=0.5, global_pool="avg")
    with pytest.raises(ValueError, match="mixer_test: pos_drop_rate=0.1 is given, and needs class_token=True or"):
        zoo.create_model("mixer_test", pos_drop_rate=0.1)
    with pytest.raises(TypeError, match="vit_test: class_token is 'yes'"):
        zoo.create_model("vit_test", class_token="yes")


def test_embeddings_can_be_left_out():
    model = zoo.create_model("vit_test", embed="none", global_pool="avg")
    assert model.tokens is None and model.num_prefix_tokens == 0
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 10)  # no weight belongs to a grid


def test_a_scheme_has_options(tmp_path):
    model = zoo.create_model("vit_test", init="trunc_normal(std=0.5)", dim=64)
    assert 0.4 < model.blocks[0].channel_mixer.fc1.weight.std() < 0.6
    zoo.save_pretrained(model, tmp_path)
    assert zoo.create_model(f"local-dir:{tmp_path}").config["init"] == "trunc_normal(std=0.5)"
    with pytest.raises(ValueError, match="trunc_normal has no option 'sdt'; did you mean 'std'"):
        zoo.create_model("vit_test", init="trunc_normal(sdt=0.5)")


def test_what_a_user_says_of_a_slot_goes_before_what_a_folder_says_in_short():
    """An earlier zoo saved options of slots as arguments of their own."""
    folder = f"local-dir:{Path(__file__).parents[1] / 'data' / 'folders' / 'isotropic'}"
    options = {"embed": "class_and_position(class_token=False)", "stem": "patch(init='xavier')", "head": "linear"}
    model = zoo.create_model(folder, pretrained=False, global_pool="avg", **options)
    assert [model.config[name] for name in options] == [[parse_slot(text)] for text in options.values()]
    assert zoo.create_model(folder, pretrained=False, head_init="zeros").config["head"][0].options["init"] == "zeros"


def test_an_option_said_twice_is_an_error():
    with pytest.raises(ValueError, match="vit_test: head_init='lecun' and head=.* are both given, and differ in init"):
        zoo.create_model("vit_test", head="linear(init='xavier')", head_init="lecun")


@pytest.mark.parametrize("name", ["init", "head", "head_init", "stem_init", "class_token"])
def test_none_is_no_argument_where_a_model_has_its_own(name):
    assert zoo.create_model("vit_test", **{name: None}).config == zoo.create_model("vit_test").config


def test_a_head_is_checked_though_none_is_built():
    with pytest.raises(ValueError, match="head linear has no option 'foo'"):
        zoo.create_model("vit_test", head="linear(foo=1)", num_classes=0)


def test_blocks_of_ones_own_say_what_a_skeleton_needs():
    class Plain(nn.Module):
        def __init__(self, *sizes, device=None, dtype=None):
            super().__init__()

        def forward(self, x):
            return x

    assert zoo.create_model("mixer_test", embed=Plain)(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(TypeError, match="stem .*Plain.* without grid.*let that give the grid that it makes"):
        zoo.create_model("mixer_test", stem=Plain)
    with pytest.raises(TypeError, match="downsample .*Plain.* without grid"):
        zoo.create_model("swin_test", downsample=Plain)


def test_a_patch_size_in_a_stems_slot_moves_with_the_model(tmp_path):
    model = zoo.create_model("vit_test", stem="patch(patch_size=8)")
    model.set_input_size(patch_size=4)
    zoo.save_pretrained(model, tmp_path)
    assert zoo.create_model(f"local-dir:{tmp_path}").stem.patch_size == (4, 4)


def test_a_slot_cannot_set_what_belongs_to_the_model():
    with pytest.raises(ValueError, match="head image has no option 'img_shape'"):
        zoo.create_model("hourglass_test", head="image(img_shape=(5, 3, 2))")
    scheme = functools.partial(TruncNormal, std=0.5)
    assert zoo.create_model("vit_test", init=scheme, dim=64).blocks[0].channel_mixer.fc1.weight.std() > 0.4


# --- One norm for both branches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pre", "post"])
def test_one_norm_for_both_branches_is_two_equal_ones(form):
    shared, apart = (text(form=form, share_norm=share, norm="layernorm").double() for share in (True, False))
    count = lambda model: sum(p.numel() for p in model.parameters())
    assert count(apart) - count(shared) == 2 * 2 * 8
    for parameter in shared.parameters():
        nn.init.normal_(parameter, std=0.3)
    missing, unexpected = apart.load_state_dict(shared.state_dict(), strict=False)
    assert not unexpected and {name.split(".")[2] for name in missing} == {"norm2"}
    for block in apart.levels:
        block.norm2.load_state_dict(block.norm1.state_dict())
    x = torch.randint(16, (2, 8))
    assert torch.equal(shared(x), apart(x))
    for model in (shared, apart):
        model(x).square().mean().backward()
    for one, two in zip(shared.levels, apart.levels, strict=True):
        assert torch.allclose(one.norm1.weight.grad, two.norm1.weight.grad + two.norm2.weight.grad)


def test_a_block_of_one_branch_has_its_norm_whether_shared_or_not():
    for slots in (dict(form="serial"), dict(token_mixer="none"), dict(channel_mixer="none")):
        assert text(share_norm=True, **slots).state_dict().keys() == text(**slots).state_dict().keys()


# --- Blocks without shortcuts -----------------------------------------------------------------------------------------


def test_plain_blocks_are_one_layer_behind_the_other():
    model = text(form="plain", token_mixer="none", channel_mixer="act_linear", layer_scale=0.5).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, 8, 8).double()
    expected = x
    for block in model.levels:
        mixer = block.channel_mixer
        expected = nn.functional.gelu(block.norm2(expected)) @ mixer.fc.weight.T + mixer.fc.bias
        expected = expected * block.scale2.gamma
    assert torch.allclose(model.levels(x), expected)


@pytest.mark.parametrize("option", ["drop_path_rate", "res_scale"])
def test_plain_blocks_have_no_shortcut_to_scale_or_to_take(option):
    with pytest.raises(ValueError, match="the form plain has no shortcuts for"):
        text(form="plain", **{option: 0.5})
