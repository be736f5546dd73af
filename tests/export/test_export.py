"""Models out of torch: what is written computes what the model computes, and says how it is fed."""

import json
import re

import pytest
import torch
from conftest import randomised, relative_error
from torch import nn

import zoo
from zoo.export import accuracy, export_model, facts_of, formats
from zoo.export.formats import Format

OTHERS = [name for name, one in formats().items() if not one.missing() and name != "aoti"]
# What a compiler of minutes or a package of gigabytes stands behind is tried by benchmarks/exports.py.


def one_of(family: str) -> nn.Module:
    return randomised(zoo.create_model(f"{family}_test")).eval()


@pytest.mark.parametrize("to", OTHERS)
def test_a_file_runs_batches_of_any_size_and_tells_of_the_model(to, tmp_path):
    model = one_of("poolformer")
    done = export_model(model, tmp_path / "model", to, name="mine")
    assert done.path == (tmp_path / "model").with_suffix(formats()[to].suffix)
    assert 0 < done.difference < 1e-4
    x = torch.randn(5, *model.input_size)
    torch.testing.assert_close(done.load(threads=1)(x), model(x).detach(), rtol=1e-4, atol=1e-4)
    told = formats()[to].facts(done.path)
    assert told == json.loads(json.dumps(done.facts))
    assert (told["model"], told["input_size"], told["interpolation"]) == ("mine", [*model.input_size], "bicubic")
    left = {path.suffix for path in tmp_path.iterdir()}
    assert left == {formats()[to].suffix, *formats()[to].beside}


def test_compiled_ahead_of_time(tmp_path):
    model = one_of("mixer")
    done = export_model(model, tmp_path / "model.pt2", "aoti")
    assert 0 < done.difference < 1e-4
    assert formats()["aoti"].facts(done.path)["model"] == "mixer_test"


@pytest.mark.parametrize("to", ["onnx", "exported"])
def test_images_of_other_sizes(to, tmp_path):
    model = one_of("convnext")
    done = export_model(model, tmp_path / "model", to, dynamic_size=True)
    step = model.feature_info[-1]["reduction"]
    x = torch.randn(1, 3, 3 * step, 5 * step)
    torch.testing.assert_close(done.load()(x), model(x).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["mixer", "swin"])
def test_one_size_alone_is_said(family, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be exported for images of any size: .* belongs to one grid; leave"):
        export_model(one_of(family), tmp_path / "model", dynamic_size=True)


def test_branches_are_merged_and_the_model_stays(tmp_path):
    model = one_of("unireplknet")
    export_model(model, tmp_path / "model", "exported")
    kept = {name for name in torch.export.load(tmp_path / "model.pt2").state_dict if "running_mean" in name}
    assert any("running_mean" in name for name in model.state_dict()) and not model.deployed
    assert not kept


def test_a_mixture_goes_where_torch_is_and_nowhere_else(tmp_path):
    model = randomised(zoo.create_model("vit_test", channel_mixer="moe(num_experts=2)"))
    rule = re.escape("blocks.0.channel_mixer (MoE) cannot be exported to onnx: it sorts its choices by expert")
    with pytest.raises(ValueError, match=rf"^{rule}.*; export to exported or aoti"):
        export_model(model, tmp_path / "model")
    assert export_model(model, tmp_path / "model", "exported").difference < 1e-4


@pytest.mark.parametrize(
    "mixer",
    [
        "moe(num_experts=4, dispatch='capacity(factor=1.05)')",
        "moe(num_experts=4, router='expert_choice')",
        "rational_kan(degrees=(3, 1))",
    ],
)
def test_what_torch_can_record_but_not_write_is_not_recorded(mixer, tmp_path):
    model = randomised(zoo.create_model("mixer_test", depth=1, channel_mixer=mixer))
    done = export_model(model, tmp_path / "model", "exported")
    x = torch.randn(7, *model.input_size)
    assert done.difference < 1e-4 and relative_error(done.load()(x), model(x)) < 1e-4


class Wrong(Format):
    """Writes, or runs, something else than it was given."""

    name, suffix = "wrong", ".bin"

    def __init__(self, fault):
        self.fault = fault

    def write(self, program, path, facts):
        path.write_text("x")
        if self.fault == "write":
            raise RuntimeError("no operator aten::x")

    def load(self, path, threads=None):
        if self.fault == "load":
            raise RuntimeError("no such operator here")
        value, width = float("nan") if self.fault == "numbers" else 0.0, 3 if self.fault == "shape" else 10
        return lambda x: torch.full((len(x), width), value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("write", "cannot be brought into wrong: .*no operator aten::x.*; export it to another format"),
        ("values", "what the file computes differs from the model by 1.0e.00 of its largest output, more than 1e-04"),
        ("numbers", "what the file computes differs from the model by nan of its largest output"),
        ("load", "cannot be brought into wrong: RuntimeError: no such operator here; export it to another format"),
        ("shape", r"the file makes outputs \(2, 3\), not \(2, 10\) as the model does; nothing was written"),
    ],
)
def test_what_computes_something_else_is_not_kept(fault, words, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.export.export.format_of", lambda name: Wrong(fault))
    (tmp_path / "model.bin").write_text("what was there")
    with pytest.raises(ValueError, match=words):
        export_model(one_of("mixer"), tmp_path / "model", "wrong")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("model", "onxx"), ValueError, "format 'onxx' is unknown; did you mean 'onnx'"),
        (("model.pb", "onnx"), ValueError, r"does not end in \.onnx, as files of onnx do"),
        ((".", "onnx"), ValueError, "is a folder; give the name of a file, ending in .onnx"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words, tmp_path):
    with pytest.raises(error, match=words):
        export_model(one_of("mixer"), tmp_path / arguments[0], arguments[1])


def test_wrong_models_are_named(tmp_path):
    with pytest.raises(TypeError, match="model is a int; give a module, or a name"):
        export_model(3, tmp_path / "model")
    with pytest.raises(ValueError, match="mixer_test is on meta and has no weights; create it on another device"):
        export_model(zoo.create_model("mixer_test", device="meta"), tmp_path / "model")
    several = nn.Identity()
    several.forward, several.input_size = lambda x: (x, x), (3,)
    with pytest.raises(ValueError, match="Identity gives a tuple; wrap it in a module that gives one tensor"):
        export_model(several, tmp_path / "model", "exported")
    with pytest.raises(ValueError, match="Linear does not tell its input size; set model.input_size"):
        export_model(nn.Linear(3, 2), tmp_path / "model")


def test_two_files_are_not_replaced(tmp_path):
    pytest.importorskip("openvino")
    export_model(one_of("mixer"), tmp_path / "model", "openvino")
    with pytest.raises(ValueError, match=r"model\.xml is there, and a file of openvino has a \.xml, a \.bin: choose"):
        export_model(one_of("mixer"), tmp_path / "model", "openvino")
    (tmp_path / "other.bin").write_text("somebody else's")
    with pytest.raises(ValueError, match=r"other\.bin is there"):
        export_model(one_of("mixer"), tmp_path / "other", "openvino")
    assert (tmp_path / "other.bin").read_text() == "somebody else's"


def test_of_outputs_that_are_all_zero_the_program_is_tried_with_other_weights(tmp_path, monkeypatch):
    silent = zoo.create_model("mixer_test").eval()
    done = export_model(silent, tmp_path / "model", "exported")
    assert 0 <= done.difference < 1e-4 and not done.load()(torch.randn(2, 3, 32, 32)).any()
    monkeypatch.setattr("zoo.export.export.format_of", lambda name: Wrong("values"))
    with pytest.raises(ValueError, match="differs from the model by 1.0e.00"):  # though it gives zeros too
        export_model(silent, tmp_path / "wrong", "wrong")


def test_a_format_without_its_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(Format, "missing", lambda self: ["onnxscript"])
    with pytest.raises(
        ValueError, match=r"the format onnx needs onnxscript; install it with: pip install 'zoo\[export\]'"
    ):
        export_model(one_of("mixer"), tmp_path / "model")


@pytest.mark.parametrize("to", [name for name in OTHERS if formats()[name].quantises])
def test_eight_bits_with_samples_to_fit_to(to, tmp_path):
    torch.manual_seed(0)
    model = one_of("convnext")
    size = (8, *model.input_size)
    exact = export_model(model, tmp_path / "exact", to)
    small = export_model(model, tmp_path / "small", to, calibration=[torch.randn(12, *size[1:]) for _ in range(6)])
    assert formats()[to].facts(small.path) == json.loads(json.dumps(exact.facts))
    assert 1e-4 < small.difference < 0.2
    assert small.path.stat().st_size < exact.path.stat().st_size
    batches = [(x, model(x).argmax(-1)) for x in torch.randn(3, 24, *size[1:])]  # larger ones than some files take
    assert accuracy(exact.load(), batches) == 1 and accuracy(small.load(), batches) > 0.7
    with pytest.raises(ValueError, match="calibration has no batch"):
        export_model(model, tmp_path / "small", to, calibration=[])
    with pytest.raises(
        ValueError, match="the format exported has no form in 8 bits here; export to executorch or onnx"
    ):
        export_model(model, tmp_path / "small", "exported", calibration=batches)
    with pytest.raises(ValueError, match="there is no sample"):
        accuracy(exact.load(), [])


@pytest.mark.parametrize("to", [name for name in OTHERS if formats()[name].quantises])
def test_a_file_for_one_sample_is_fitted_and_measured_sample_by_sample(to, tmp_path):
    model = one_of("mixer")
    batches = [torch.randn(4, *model.input_size) for _ in range(2)]
    done = export_model(model, tmp_path / "one", to, dynamic_batch=False, calibration=batches)
    assert done.most_samples == 1 and done.load()(batches[0]).shape == (4, 10)


def test_labels_are_the_models_own_or_imagenets():
    assert facts_of(zoo.create_model("vit_test"))["labels"] is None
    whole = facts_of(zoo.create_model("mixer_s32_224", device="meta"))
    assert whole["labels"][0].startswith("tench") and len(whole["labels"]) == 1000
    model = zoo.create_model("mixer_test", num_classes=2, pretrained_cfg_overlay={"label_names": ["cat", "dog"]})
    assert facts_of(model)["labels"] == ["cat", "dog"]
