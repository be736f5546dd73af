"""Speed side by side: what is timed is what was asked for, and the figures follow from the times."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from conftest import ROOT, randomised
from torch import nn

import zoo
from zoo.bench import WAYS, SpeedReport, Timing, by_block, compare
from zoo.bench.__main__ import main
from zoo.bench.blocks import Block, blocks_of
from zoo.bench.ceiling import matmul_ceiling, memory_ceiling
from zoo.bench.memory import peak_bytes
from zoo.bench.report import Contender
from zoo.bench.timing import percentile, spread, take_turns

CPU = torch.device("cpu")


def test_calls_take_turns_and_each_round_begins_with_another():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = take_turns(calls, 4, CPU)
    assert "".join(order) == "abcbcacababcbcacab"  # two rounds to warm up
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_figures_follow_from_the_times():
    contender = Contender("mine", "eager", "fp32", 4)
    slow = Timing(contender, (2.0, 4.0, 6.0, 8.0, 10.0), macs=30, difference=0.0, ceiling=100.0)
    fast = Timing(Contender("other", "eager", "fp32", 4), (1.0, 1.0, 3.0, 2.0, 5.0), 30, 0.0, 100.0)
    assert (slow.median, slow.p90, slow.throughput) == (6.0, 10.0, 4 / 6)
    assert slow.share_of_ceiling == 60 / 6 / 100
    report = SpeedReport((slow, fast), {}, "nowhere")
    ratio = report.ratio(fast)
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 4.0)  # of 2, 4, 2, 4, 2
    assert report.fastest("mine", 4) is slow
    with pytest.raises(ValueError, match="no row is of 'mine' with a batch of 8"):
        report.fastest("mine", 8)
    assert percentile(range(101), 0.9) == 90 and spread([3.0]).median == 3.0


def test_candidates_by_name_and_as_modules():
    mine = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    mine.input_size = (3, 2, 2)
    report = compare({"mine": mine, "zoo's": zoo.create_model("mixer_test")}, batch_sizes=(1, 2), rounds=2, threads=1)
    assert [(row.contender.candidate, row.contender.batch_size) for row in report.rows] == [
        ("mine", 1), ("zoo's", 1), ("mine", 2), ("zoo's", 2),
    ]  # fmt: skip
    assert [row.macs for row in report.rows] == [60, 540992, 120, 2 * 540992]
    assert all(row.difference == 0 and row.peak_bytes is None for row in report.rows)
    named = compare(["vit_test", "timm:test_vit"], rounds=1, memory=True)
    assert [row.contender.candidate for row in named.rows] == ["vit_test", "timm:test_vit"]
    assert all(row.peak_bytes > 0 for row in named.rows) and "peak MB" in str(named)


def test_a_name_that_comes_twice_is_two_models_and_several_outputs_are_one():
    report = compare(["mixer_test", "mixer_test"], rounds=1)
    assert [row.contender.candidate for row in report.rows] == ["mixer_test", "mixer_test (2)"]

    class Several(nn.Linear):
        input_size = (4,)

        def forward(self, x):
            return {"count": torch.ones(1, dtype=torch.long), "y": super().forward(x)}

    for training in (False, True):
        assert compare({"several": Several(4, 2)}, rounds=1, training=training).rows[0].macs > 0


def test_threads_are_put_back():
    before = torch.get_num_threads()
    compare("mixer_test", rounds=1, threads=2)
    assert torch.get_num_threads() == before


def test_precisions_compute_nearly_the_same():
    rows = compare("vit_test", precisions=("fp32", "bf16", "int8"), rounds=1).rows
    assert [row.contender.precision for row in rows] == ["fp32", "bf16", "int8"]
    assert rows[0].difference == 0 and 0 < rows[1].difference < 0.1 and 0 < rows[2].difference < 0.5


def test_a_training_step_counts_both_directions_and_leaves_the_model():
    model = zoo.create_model("mixer_test")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = compare({"mixer": model}, ways=("eager", "onnxruntime"), training=True, rounds=1)
    costs = zoo.count_costs(model)
    assert report.rows[0].macs == costs.macs + costs.backward_macs
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [p.grad for p in model.parameters()] == [None] * len(before)
    assert list(report.skipped.values()) == ["onnxruntime has no backward pass"]


@pytest.mark.parametrize("way", [name for name in WAYS if name != "eager"])
@pytest.mark.slow
def test_every_way_computes_the_model(way):
    rows = compare("poolformer_test", ways=("eager", way), rounds=1).rows
    assert rows[1].contender.way == way and rows[1].difference < 1e-4


@pytest.mark.slow
def test_a_frozen_program_has_its_weights_within_even_beside_one_that_has_not(monkeypatch):
    """As an option of one compilation the wish was lost; and a program of the same forward pass can take its place."""
    monkeypatch.setattr("zoo.bench.ways.copy.deepcopy", lambda model: model)
    model = randomised(zoo.create_model("mixer_test")).eval()
    x = torch.randn(1, *model.input_size)
    calls = {name: WAYS[name](model, x, "fp32", 1) for name in ("compile", "compile_frozen")}
    before = {name: call() for name, call in calls.items()}
    with torch.no_grad():
        model.blocks[0].channel_mixer.fc1.weight.zero_()
    after = {name: call() for name, call in calls.items()}
    torch.testing.assert_close(after["compile"], model(x))
    assert not torch.allclose(after["compile"], before["compile"])
    torch.testing.assert_close(after["compile_frozen"], before["compile_frozen"])


def test_exported_models_in_other_runtimes_compute_the_same():
    pytest.importorskip("openvino"), pytest.importorskip("onnxruntime")
    report = compare("mixer_test", ways=("openvino", "onnxruntime"), rounds=1, threads=1)
    assert not report.skipped and all(row.difference < 1e-4 for row in report.rows)


def test_what_cannot_be_built_is_named_and_the_others_are_timed(monkeypatch):
    monkeypatch.setitem(WAYS, "broken", lambda *_: [].pop())
    report = compare("mixer_test", ways=("broken", "eager"), rounds=1)
    assert len(report.rows) == 1 and "mixer_test broken fp32 x1: left out, IndexError: pop from empty list" in str(
        report
    )
    with pytest.raises(ValueError, match="nothing could be built: mixer_test broken fp32 x1: IndexError"):
        compare("mixer_test", ways=("broken",), rounds=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(ways=("eagr",)), "way 'eagr' is unknown; did you mean 'eager'"),
        (dict(precisions=("fp16",)), "precisions.*'fp16'"),
        (dict(batch_sizes=(0,)), "batch_sizes.*0"),
        (dict(rounds=0), "rounds is 0"),
        (dict(ways=()), "ways is empty; give one or more"),
        (dict(device="tpu"), "device 'tpu' is unknown; give cpu or cuda"),
        (dict(device="meta"), "device 'meta' cannot be used here"),
    ],
)
def test_wrong_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        compare("mixer_test", **{"rounds": 1, **options})


def test_wrong_candidates_are_named():
    with pytest.raises(TypeError, match="candidate 'mine' is a int; give a module by a name"):
        compare({"mine": 3})
    for wrong in (nn.Linear(2, 2), [nn.Linear(2, 2)], 3):
        with pytest.raises(TypeError, match="candidates is .*; give names of models, or modules by name"):
            compare(wrong)
    with pytest.raises(ValueError, match="timm's model 'tset_vit' is unknown; did you mean 'test_vit'"):
        compare("timm:tset_vit")
    with pytest.raises(ValueError, match="candidates is empty"):
        compare([])
    with pytest.raises(TypeError, match="by_block takes a module"):
        by_block("mixer_test")
    odd = nn.Linear(2, 2)
    odd.input_size = 32
    with pytest.raises(TypeError, match="odd: input_size is 32"):
        compare({"odd": odd})
    with pytest.raises(ValueError, match="mine does not tell its input size"):
        compare({"mine": nn.Linear(2, 2)})


# --- Blocks -----------------------------------------------------------------------------------------------------------


def test_blocks_are_stem_blocks_downsampling_and_head_of_any_model():
    names = [name for name, _ in blocks_of(zoo.create_model("poolformer_test"))]
    assert names[:3] == ["stem", "stages.0.blocks.0", "stages.1.downsample"] and names[-1] == "head"
    names = [name for name, _ in blocks_of(timm.create_model("resnet18"))]
    assert names[0] == "conv1" and "layer1.0" in names and "layer4.1" in names and names[-1] == "fc"


def test_latency_is_complexity_over_peak_and_efficiency(tmp_path):
    block = Block("a", "Mlp", macs=50, seconds=4.0, bound=2.0, ceiling=100.0)
    assert (block.ideal, block.efficiency) == (1.0, 0.25)
    assert block.seconds == 2 * block.macs / (block.ceiling * block.efficiency)
    model = zoo.create_model("poolformer_test")
    report = by_block(model, batch_size=2, rounds=2)
    assert report.whole.macs == 2 * zoo.count_flops(model).macs >= sum(b.macs for b in report.blocks) > 0
    assert all(b.seconds > 0 and b.bound > 0 for b in report.blocks)
    assert "| (the model) | Hierarchical |" in str(report) and "(outside of these)" in str(report)
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "blocks.png")
    assert (tmp_path / "blocks.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="precision is 'int8'; give fp32 or bf16"):
        by_block(model, precision="int8")
    half = by_block(model.train(), precision="bf16", rounds=1)
    assert model.training and next(model.parameters()).dtype is torch.float32 and "bf16 on 1 samples" in str(half)


def test_ceilings_and_memory():
    assert matmul_ceiling(torch.float32, CPU, rounds=1) > 1e8 and memory_ceiling(CPU, rounds=1) > 1e7
    x = torch.randn(256, 256)
    assert 2 * x.nbytes <= peak_bytes(lambda: (x + 1) * 2, CPU) < 2 * x.nbytes + 100  # and the numbers, as tensors


def test_who_follows_a_measurement_is_told_how_far_it_is():
    told = []
    compare(["mixer_test", "vit_test"], batch_sizes=(1, 2), rounds=1, progress=lambda *step: told.append(step))
    assert told == [(n, 10) for n in range(1, 11)]  # two batch sizes: two are built, and two rounds warm up
    told.clear()
    by_block(zoo.create_model("mixer_test"), rounds=1, progress=lambda *step: told.append(step))
    assert told == [(1, 3), (2, 3), (3, 3)]


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_json_or_what_is_wrong(capsys):
    main(["mixer_test", "--rounds", "1", "--batch", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][0]["contender"] == dict(candidate="mixer_test", way="eager", precision="fp32", batch_size=2)
    assert len(found["rows"][0]["seconds"]) == 1
    with pytest.raises(SystemExit):
        main(["mixer_tset", "--rounds", "1"])
    assert "error: model 'mixer_tset' is unknown; did you mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["vit_test", "--blocks", "a.png"], "--blocks times one model"),
        (["--blocks", "a.png", "--json"], "--blocks times one model"),
        (["--blocks", "nowhere/a.png"], "--blocks nowhere/a.png cannot be written; name a .png file in"),
        (["--blocks", "a.txt"], "--blocks a.txt cannot be written"),
    ],
)
def test_blocks_are_of_one_model_and_a_picture_that_can_be_written(more, words, capsys):
    with pytest.raises(SystemExit):
        main(["mixer_test", *more])
    assert words in capsys.readouterr().err


def test_the_module_runs_and_draws(tmp_path):
    picture = tmp_path / "blocks.png"
    command = [
        sys.executable,
        "-m",
        "zoo.bench",
        "vit_test",
        "--blocks",
        str(picture),
        "--rounds",
        "1",
        "--threads",
        "1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "| blocks.0 | MetaBlock |" in done.stdout and picture.exists()
