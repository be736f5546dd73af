"""Rules for checkpoints, strict both ways, and files that are not what they should be."""

import pickle

import pytest
import torch
from conftest import TIMM_VARIANTS, randomised
from safetensors.torch import save_file
from test_official import FILES as OFFICIAL
from test_official import read as read_official

import zoo
from zoo.weights import drop, read_state_dict, remap, rename, reshape, stack, transpose


def shapes(**sizes) -> dict[str, torch.Tensor]:
    return {k: torch.empty(v, device="meta") for k, v in sizes.items()}


def test_operations():
    x = torch.arange(12.0).view(1, 3, 4)
    got = remap(
        {"r": x, "t": x}, shapes(b=(12,), c=(1, 4, 3)), [rename("^r$", "b", reshape), rename("^t$", "c", transpose)]
    )
    assert torch.equal(got["b"], x.flatten()) and torch.equal(got["c"], x.transpose(1, 2))


def test_stack():
    experts = {f"mlp.{i}.w": torch.full((2,), float(i)) for i in (10, 2, 1)}
    got = remap(experts, {"experts.w": torch.empty(3, 2)}, [stack(r"^mlp\.\d+\.w$", "experts.w")])
    assert got["experts.w"][:, 0].tolist() == [1.0, 2.0, 10.0]


@pytest.mark.parametrize("rule", [rename("^x$", "y", reshape), rename("^x$", "y", transpose), stack("^x$", "y")])
def test_a_tensor_that_an_operation_cannot_take_is_told_like_any_other(rule):
    with pytest.raises(ValueError, match=r"shapes that differ \(1\): x: \(.*5,?\) in the file, \(2, 3\) in the model"):
        remap({"x": torch.zeros(5)}, shapes(y=(2, 3)), [rule])


def test_parts_of_different_shapes_are_not_stacked():
    source = {"mlp.0.w": torch.zeros(2), "mlp.1.w": torch.zeros(3)}
    with pytest.raises(ValueError, match="mlp.0.w and mlp.1.w both belong to w and differ in shape"):
        remap(source, shapes(w=(2, 2)), [stack(r"^mlp\.\d+\.w$", "w")])


def test_strict_both_ways_lists_everything():
    source = {"fc.weight": torch.zeros(2, 3), "old.bias": torch.zeros(2), "wrong": torch.zeros(5)}
    target = shapes(**{"fc.weight": (2, 3), "new.bias": (2,), "wrong": (4,)})
    with pytest.raises(ValueError) as error:
        remap(source, target, [], "weights.safetensors")
    text = str(error.value)
    for part in (
        "weights.safetensors",
        "no place for (1): old.bias",
        "source lacks (1): new.bias",
        "(5,) in the file, (4,) in the model",
    ):
        assert part in text
    assert list(remap({"head.w": torch.zeros(1)}, {}, [drop("^head", "no head")])) == []


def test_two_sources_of_one_key_are_an_error():
    with pytest.raises(ValueError, match="both become a"):
        remap({"a": torch.zeros(1), "b": torch.zeros(1)}, shapes(a=(1,)), [rename("^b$", "a")])


def test_every_rule_of_every_family_is_used():
    """A rule that matches no key of timm's model, nor of the authors', is dead."""
    import timm

    families = zoo.registry.families().values()
    keys = {family.name: set() for family in families}
    for path in OFFICIAL:
        arch, _, tensors = read_official(path)
        keys[zoo.model_info(arch).family] |= {key.removeprefix("weights.") for key in tensors}
    for family in families:
        for name in [n for n in TIMM_VARIANTS if n in family.variants][-1:]:
            keys[family.name] |= set(timm.create_model(name, device="meta").state_dict())
    for rule in {rule for family in families for rule in family.rules}:
        users = [family.name for family in families if rule in family.rules]
        used = any(rule.pattern.search(key) for name in users for key in keys[name])
        # A drop is for what some versions of the authors' files hold; ResMLP's own layout has a test of its own.
        assert used or rule.reason or "patch_embed" in rule.pattern.pattern, (users, rule.pattern.pattern)


# --- Bad files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path):
    model = randomised(zoo.create_model("mixer_test"))
    path = tmp_path / "good.safetensors"
    save_file(model.state_dict(), path)
    return model, path


def load(path, **kwargs):
    return zoo.create_model("mixer_test", pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs)


def test_a_good_file_loads(good):
    model, path = good
    assert torch.equal(load(path).head.weight, model.head.weight)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_truncated_safetensors(good, tmp_path, cut):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(good[1].read_bytes()[:cut])
    with pytest.raises(ValueError, match="cut.safetensors is not a whole safetensors file"):
        load(path)


def test_corrupt_safetensors(good, tmp_path):
    data = bytearray(good[1].read_bytes())
    data[8:40] = b"x" * 32
    path = tmp_path / "corrupt.safetensors"
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="corrupt.safetensors is not a whole safetensors file"):
        load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no weight file .*gone.safetensors"):
        load(tmp_path / "gone.safetensors")


def test_wrong_shape_missing_and_extra_keys(good, tmp_path):
    state = good[0].state_dict()
    state["norm.weight"] = torch.zeros(7)
    del state["blocks.1.norm1.bias"]
    state["blocks.9.norm1.bias"] = torch.zeros(32)
    path = tmp_path / "odd.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError) as error:
        load(path)
    for part in (
        "odd.safetensors",
        "norm.weight: (7,) in the file, (32,) in the model",
        "blocks.1.norm1.bias",
        "blocks.9.norm1.bias",
    ):
        assert part in str(error.value)


class Bomb:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pth_with_code_is_refused_and_nothing_runs(tmp_path, capsys):
    path = tmp_path / "bomb.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hook": Bomb()}, path)
    with pytest.raises(ValueError, match="bomb.pth is refused: .* could run code"):
        load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="bomb.pth"):
        load(path)
    assert "code ran" not in capsys.readouterr().out


def test_a_plain_pth_loads_and_a_broken_one_is_told(good, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": good[0].state_dict(), "epoch": 3}, path)
    assert torch.equal(load(path).head.weight, good[0].head.weight)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="weights.pth"):
        load(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no mapping of names to tensors"):
        read_state_dict(path)


def test_checkpoint_path_takes_zoos_keys_and_timms(good, timm_checkpoint):
    model, path = good
    assert torch.equal(zoo.create_model("mixer_test", checkpoint_path=path).head.weight, model.head.weight)
    theirs, path = timm_checkpoint("resmlp_12_224")
    assert torch.equal(zoo.create_model("resmlp_12_224", checkpoint_path=path).head.weight, theirs.head.weight)


def test_features_of_a_pretrained_model(good):
    model, path = good
    x = torch.randn(1, 3, 32, 32)
    features = load(path, features_only=True, out_indices=[1]).eval()
    assert torch.equal(features(x)[0], model.forward_intermediates(x, [1], intermediates_only=True)[0])
    with pytest.raises(ValueError, match="checkpoint_path fills a whole model"):
        zoo.create_model("mixer_test", features_only=True, checkpoint_path=path)


def test_weights_into_a_meta_model_are_refused(good):
    with pytest.raises(ValueError, match="meta device"):
        load(good[1], device="meta")


def test_weights_of_another_mixer_are_refused(good):
    with pytest.raises(ValueError, match="do not fit the model"):
        load(good[1], channel_mixer="glu")


def test_a_source_without_a_network_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "zoo.weights.load_state_dict_from_hf", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no route"))
    )
    with pytest.raises(
        ValueError, match=r"gmlp_s16_224 could not be fetched from hf-hub:timm/gmlp_s16_224.ra3_in1k .*no route"
    ):
        zoo.create_model("gmlp_s16_224", pretrained=True, cache_dir=tmp_path)
