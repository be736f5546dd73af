"""What the commands say of models is what zoo says of them: list, info, flops, compare, card, predict."""

import json

import numpy as np
import pytest
import torch
from commands import Command
from conftest import randomised
from PIL import Image
from timm.data import create_transform

import zoo
from zoo.bench.report import Contender, SpeedReport
from zoo.export.facts import labels_of
from zoo.tools.index import known
from zoo.tools.pareto import front


@pytest.fixture
def command(capsys):
    return Command(capsys)


def colours(path) -> int:
    """How many colours a picture has: a blank one has one."""
    with Image.open(path) as image:
        return len(image.convert("RGB").getcolors(2**24))


# --- list, info -------------------------------------------------------------------------------------------------------

NEWER = {name for name in zoo.list_models(include_tests=True) if name not in known()["models"]}


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["mixer_b*", "gmlp_*"], {"filter": ["mixer_b*", "gmlp_*"]}),
        (["*.goog_in21k", "--tags"], {"filter": "*.goog_in21k", "include_tags": True}),
        (["--family", "vit", "--pretrained", "--tags"], {"family": "vit", "pretrained": True}),
        (["--family", "gmlp", "--pretrained"], {"family": "gmlp", "pretrained": True, "include_tags": False}),
        (["--task", "classification", "--tests"], {"task": "classification", "include_tests": True}),
        (["swin_t"], {"filter": "*swin_t*"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_list_has_the_names_of_list_models(command, arguments, options):
    expected = [name for name in zoo.list_models(**options) if name.split(".")[0] not in NEWER]
    rows = command.json("list", *arguments)
    assert sorted(row["name"] for row in rows) == sorted(expected) and rows
    lines = command.text("list", *arguments).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [row["name"] for row in rows]


def test_list_sorts(command):
    newer = [row["macs"] for row in command.json("list", "--sort", "macs")]
    by_macs = [value for value in newer if value is not None]  # of a variant newer than the index nothing is counted
    assert newer[: len(by_macs)] == by_macs == sorted(by_macs) and by_macs[0] < by_macs[-1]
    by_params = [row["params"] for row in command.json("list", "--tests", "--sort", "params")]
    known = [value for value in by_params if value is not None]
    assert by_params[: len(known)] == known == sorted(known)
    rows = [row["top1"] for row in command.json("list", "--sort", "top1")]
    there = [value for value in rows if value is not None]
    assert there == sorted(there, reverse=True) and rows[: len(there)] == there and None in rows
    assert [row["name"] for row in command.json("list", "vit_t*", "vit_s*")] == zoo.list_models(["vit_t*", "vit_s*"])


def test_list_says_that_nothing_fits(command, capsys):
    assert command.text("list", "nobody*") == "" and command.json("list", "nobody*") == []
    main_said = capsys.readouterr()
    assert not main_said.err
    from zoo.cli import main

    main(["list", "nobody*"])
    assert "no model fits" in capsys.readouterr().err


def test_info_says_what_model_info_says(command):
    info, found = zoo.model_info("mixer_b16_224"), command.json("info", "mixer_b16_224")
    assert found["about"] == info.about and found["arguments"] == {k: repr(v) for k, v in info.arguments.items()}
    assert found["published"] == {name: str(row) for name, row in info.published.items()}
    tags = {each["name"].partition(".")[2]: each["licence"] for each in found["configurations"] if each["weights"]}
    assert tags == dict(info.tags)
    text = command.text("info", "mixer_b16_224")
    assert info.about in text and "  dim: 768" in text and "59,880,472" in text and "12.62 G MACs" in text
    assert "none released" in command.text("info", "vit_test")
    assert command.json("info", "mixer_b16_224.goog_in21k")["classes"] == 21843


def test_info_of_a_folder_and_of_a_resolved_model(command, tmp_path):
    model = zoo.create_model("vit_test", channel_mixer="glu(act='gelu')", num_classes=7)
    zoo.save_pretrained(model, tmp_path)
    found = command.json("info", str(tmp_path), "--resolved")
    assert found["architecture"] == "vit_test" and "glu" in found["arguments"]["channel_mixer"]
    assert found["weights"]["bytes"] == (tmp_path / "model.safetensors").stat().st_size
    assert found["resolved"]["num_classes"] == "7"
    assert "glu" in command.text("info", str(tmp_path)) and "dim: 32" in command.text("info", "vit_test", "--resolved")


# --- flops, compare, card ---------------------------------------------------------------------------------------------


def test_flops_prints_the_report(command, tmp_path):
    model = zoo.create_model("swin_test", token_mixer="pool")
    zoo.save_pretrained(model, tmp_path / "model")
    report = zoo.count_costs(model)
    text = command.text("flops", str(tmp_path / "model"), "--depth", "2", "--backward", "--by-operator")
    assert text == report.table(2) + "\n"
    assert command.text("flops", str(tmp_path), "--backward") == report.table(1, operators=False) + "\n"  # as a run's
    found = command.json("flops", f"local-dir:{tmp_path / 'model'}", "--backward")
    assert (found["macs"], found["backward_macs"]) == (report.macs, report.backward_macs)
    assert found["by_module"] == report.by_module and found["activations_by_module"] == report.activations_by_module


def test_flops_at_another_size_and_of_timm(command):
    found = command.json("flops", "convnext_test", "--img-size", "64", "--batch", "2")
    assert found["input_shapes"] == [[2, 3, 64, 64]]
    assert found["macs"] == zoo.count_flops(zoo.create_model("convnext_test"), (3, 64, 64)).macs
    assert command.json("flops", "timm:test_vit")["macs"] > 0
    assert "backward" not in command.text("flops", "vit_test").splitlines()[2]


def test_compare_has_what_is_known_and_counts_the_rest(command, tmp_path):
    zoo.save_pretrained(zoo.create_model("vit_test", depth=1), tmp_path)
    rows = command.json("compare", "mixer_b16_224", "vit_test", str(tmp_path), "timm:test_vit")["models"]
    assert [row["name"] for row in rows] == ["mixer_b16_224", "vit_test", f"local-dir:{tmp_path}", "timm:test_vit"]
    assert rows[0]["top1"] == 76.616 and rows[1]["top1"] is None
    assert rows[2]["macs"] == zoo.count_flops(zoo.create_model("vit_test", depth=1)).macs < rows[1]["macs"]
    assert all(row["params"] > 0 for row in rows)


def test_a_model_that_cannot_be_timed_is_named(command, monkeypatch):
    def compare(names, **_):
        vit = Contender("vit_test", "eager", "fp32", 1)
        return SpeedReport((), {vit: "its forward pass raised"}, "two threads")

    monkeypatch.setattr("zoo.bench.compare", compare)
    said = command.refusal("compare", "mixer_test", "vit_test", "--latency")
    assert "vit_test cannot be timed: its forward pass raised; leave it out" in said


def test_the_front_has_what_nothing_else_beats():
    points = [("a", 1, 5), ("b", 2, 5), ("c", 2, 7), ("d", 3, 6), ("e", 3, 9)]
    assert [name for name, *_ in front(points, less_is_better=False)] == ["a", "c", "e"]
    assert [name for name, *_ in front(points, less_is_better=True)] == ["a"]
    assert front([], less_is_better=True) == []


@pytest.mark.parametrize("more", [[], ["--x", "params"], ["--latency", "--rounds", "1", "--threads", "1"]])
def test_compare_draws(command, tmp_path, more, capsys):
    picture = tmp_path / "pareto.png"
    names = ["vit_test", "mixer_test"] if more[:1] == ["--latency"] else ["mixer_b16_224", "vit_test", "gmlp_s16_224"]
    text = command.text("compare", *names, "--plot", str(picture), *more)
    assert f"The picture is in {picture}." in text and colours(picture) > 20
    if "--latency" in more:
        assert "1.00 (1.00 to 1.00)" in text and "2 threads" not in text


def test_compare_refuses_a_picture_of_nothing(command, tmp_path):
    said = command.refusal("compare", "vit_test", "mixer_test", "--plot", str(tmp_path / "a.png"))
    assert "none of these models has a published top-1; --latency times them" in said


def test_card_prints_what_the_tool_prints(command):
    from zoo.registry import families
    from zoo.tools import card

    assert command.text("card", "kan") == card.HEADER + card.section(families()["kan"])
    rows = command.json("card", "kan", "gmlp")
    assert {"`gmlp_s16_224.ra3_in1k`", "`gmlp_ti16_224`", "`kan_function`"} <= {row["model"] for row in rows}
    lines = [line for line in card.section(families()["gmlp"]).splitlines() if line.startswith("| `")]
    rows = [row | {"weights": card.linked(row["weights"])} for row in rows if "gmlp" in row["model"]]
    assert ["| " + " | ".join(row.values()) + " |" for row in rows] == lines


# --- predict ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Three pictures: of colours, grey, and with alpha."""
    rng = np.random.default_rng(0)
    paths = []
    for mode, shape in (("RGB", (40, 56, 3)), ("L", (32, 32)), ("RGBA", (64, 48, 4))):
        paths.append(tmp_path / f"{mode}.png")
        Image.fromarray(rng.integers(0, 256, shape, "uint8"), mode).save(paths[-1])
    return paths


def saved(folder, name="vit_test", cfg=(), **arguments):
    """A folder of a model whose weights are not zeros, with more keys in its configuration."""
    model = randomised(zoo.create_model(name, **arguments))
    zoo.save_pretrained(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= dict(cfg)
    (folder / "config.json").write_text(json.dumps(config))
    return model


def test_predict_gives_the_softmax_of_the_logits_of_the_prepared_image(command, pictures, tmp_path):
    names = {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "a cat", "n3": "a fish"}}
    cfg = names | {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "crop_pct": 0.8, "interpolation": "bilinear"}
    model = saved(tmp_path / "model", cfg=cfg, num_classes=3)
    found = command.json("predict", *map(str, pictures), "--model", str(tmp_path / "model"))
    prepare = create_transform(32, mean=cfg["mean"], std=cfg["std"], crop_pct=0.8, interpolation="bilinear")
    for path, answer in zip(pictures, found, strict=True):
        with torch.no_grad():
            shares = model(prepare(Image.open(path).convert("RGB"))[None]).softmax(-1)[0]
        assert answer["image"] == str(path)
        assert [row["class"] for row in answer["top"]] == shares.argsort(descending=True).tolist()
        for row in answer["top"]:
            assert row["probability"] == pytest.approx(shares[row["class"]].item(), rel=1e-4)
            assert row["label"] == ["a cat", "n2", "a fish"][row["class"]]


def test_predict_prints_the_top_and_draws(command, pictures, tmp_path):
    saved(tmp_path / "model")
    picture = tmp_path / "answer.png"
    arguments = ["--model", str(tmp_path / "model"), "--top", "2", "--plot", str(picture)]
    text = command.text("predict", str(pictures[0]), str(pictures[1]), *arguments)
    assert text.count("class ") == 4 and text.count("%") == 4 and colours(picture) > 100
    wrong = pictures[0].with_name("no.png")
    wrong.write_text("no picture")
    assert "no.png cannot be read as a picture" in command.refusal("predict", str(wrong), *arguments[:2])
    assert "nowhere.png cannot be read" in command.refusal("predict", "nowhere.png", *arguments[:2])


def test_predict_with_a_grey_model(command, pictures, tmp_path):
    """The mean of ImageNet's colours is taken from its one channel, as a recipe does."""
    model = saved(tmp_path / "grey", in_chans=1)
    (answer,) = command.json("predict", str(pictures[0]), "--model", str(tmp_path / "grey"), "--top", "1")
    cfg = model.pretrained_cfg
    prepare = create_transform(
        32, mean=(sum(cfg["mean"]) / 3,), std=(sum(cfg["std"]) / 3,), crop_pct=cfg["crop_pct"], interpolation="bicubic"
    )
    with torch.no_grad():
        shares = model(prepare(Image.open(pictures[0]).convert("L"))[None]).softmax(-1)[0]
    assert answer["top"][0]["class"] == shares.argmax().item()
    assert answer["top"][0]["probability"] == pytest.approx(shares.max().item(), rel=1e-4)


def test_predict_with_a_checkpoint(command, pictures, tmp_path):
    saved(tmp_path / "model")
    (one,) = command.json("predict", str(pictures[0]), "--model", str(tmp_path / "model"))
    weights = str(tmp_path / "model" / "model.safetensors")
    (other,) = command.json("predict", str(pictures[0]), "--model", "vit_test", "--checkpoint", weights)
    assert one["top"] == other["top"] and len(one["top"]) == 5


def test_predict_refuses_what_gives_no_classes(command, pictures, tmp_path):
    zoo.save_pretrained(zoo.create_model("kan_test"), tmp_path / "kan")
    said = command.refusal("predict", str(pictures[0]), "--model", str(tmp_path / "kan"))
    assert "gives no classes of images" in said


def test_labels_are_the_models_own_or_those_of_an_imagenet():
    model = zoo.create_model("vit_test", num_classes=1000)
    assert labels_of(model)[0] == "tench, Tinca tinca" and len(labels_of(model)) == 1000
    assert labels_of(zoo.create_model("vit_test")) is None
    assert len(labels_of(zoo.create_model("vit_test", num_classes=21843))) == 21843
