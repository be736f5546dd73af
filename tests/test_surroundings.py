"""Where zoo is used: threads beside each other, forked processes, no docstrings, no home, no locale."""

import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import ROOT, TINY_VARIANTS, randomised
from torch import nn

import zoo
from zoo.blocks.kernels import cost
from zoo.registry import families


def run(code: str, *flags: str, **environment: str) -> str:
    """What a fresh interpreter prints that knows nothing of this one's environment."""
    keep = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    env = {**keep, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.run(
        [sys.executable, *flags, "-c", code], env=env, capture_output=True, text=True, timeout=120, encoding="utf-8"
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


# --- Processes --------------------------------------------------------------------------------------------------------

EVERYTHING = """
import sys, tempfile, torch, zoo
from zoo.tools.card import section
from zoo.registry import families
model = zoo.create_model("vmoe_test").eval()
y = model(torch.ones(2, *model.input_size))
print(model, zoo.count_flops(model).table(3), zoo.list_models("*test", include_tests=True))
for name in zoo.list_models(include_tests=True):
    print(zoo.model_info(name))
print(section(families()["kan"]))
for call in (lambda: zoo.create_model("vit_tset"), lambda: model(y), lambda: zoo.create_block("token_mixer", "pol", 8)):
    try:
        call()
    except ValueError as error:
        print(error)
with tempfile.TemporaryDirectory() as folder:
    zoo.save_pretrained(model, folder + "/model")
    again = zoo.create_model("local-dir:" + folder + "/model").eval()
assert torch.equal(again(torch.ones(2, *model.input_size)), y)
print("optimised", sys.flags.optimize, "in", sys.stdout.encoding)
"""


@pytest.mark.parametrize("optimised", [[], ["-OO"]], ids=["as usual", "-OO"])
def test_without_docstrings_a_home_and_a_locale(tmp_path, optimised):
    nowhere = tmp_path / "file"  # no folder can be made in it, whoever tries
    nowhere.touch()
    environment = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere / "cache"), "LC_ALL": "C"}
    environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
    printed = run(EVERYTHING, "-W", "error::UserWarning", *optimised, **environment)
    assert printed.endswith(f"optimised {2 * len(optimised)} in ascii\n")


def test_what_is_printed_of_families_is_ascii():
    assert not {name: family.about for name, family in families().items() if not family.about.isascii()}


FORK = """
import os, signal, torch
before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
import zoo
zoo.list_models(), zoo.list_blocks("token_mixer"), zoo.model_info("vit_test"), zoo.count_flops
child = os.fork()
if not child:
    signal.alarm(60)
    model = zoo.create_model("swin_test").train()
    x = torch.ones(8, 3, 64, 64)
    model(x).sum().backward()
    with torch.no_grad():
        zoo.create_model("vit_test", dim=512, img_size=64, token_mixer="attention").eval()(x)
    zoo.count_flops(model)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_process_forked_after_the_import_runs_models():
    """With several threads: a child waits for ever for threads that its parent had started."""
    assert run(FORK, "-W", "ignore", OMP_NUM_THREADS="4") == "0\n"


# --- Threads ----------------------------------------------------------------------------------------------------------


def facts(name: str) -> tuple:
    """What a variant's costs are."""
    report = zoo.count_flops(zoo.create_model(name))
    return report.macs, report.params, report.by_operator, report.by_module, report.uncounted


def test_four_threads_build_count_and_run_models():
    names = [name for name in TINY_VARIANTS if not name.startswith(("swin_moe", "s_convkan"))]  # the slowest
    models = {name: randomised(zoo.create_model(name)) for name in names}
    inputs = {name: torch.randn(2, *model.input_size) for name, model in models.items()}
    with torch.no_grad():
        expected = {name: (facts(name), model(inputs[name])) for name, model in models.items()}
    filters, start = list(warnings.filters), threading.Barrier(4)

    def work(first: int) -> None:
        start.wait()
        for name in names[first::2]:  # each is met by two threads
            with torch.no_grad():
                assert torch.equal(models[name](inputs[name]), expected[name][1]), name
                assert facts(name) == expected[name][0], name
                assert torch.equal(models[name](inputs[name]), expected[name][1]), name

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, (0, 1, 0, 1)))
    assert warnings.filters == filters


def test_nothing_changes_for_others_while_a_thread_counts():
    reached, go_on = threading.Event(), threading.Event()

    class Gate(nn.Identity):
        def forward(self, x):
            reached.set()
            assert go_on.wait(60)
            return x

    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True).eval()
    models = [randomised(zoo.create_model(name)) for name in ("kan_test", "swin_test", "vmoe_test", "kat_test")]
    inputs = [torch.randn(3, *model.input_size) for model in models]
    tokens, filters = torch.randn(2, 5, 8), list(warnings.filters)
    with torch.inference_mode():
        expected = [layer(tokens), *(model(x) for model, x in zip(models, inputs, strict=True))]
    with ThreadPoolExecutor(2) as pool:
        counts = [pool.submit(zoo.count_flops, nn.Sequential(Gate(), nn.Linear(8, 4)), (8,)) for _ in range(2)]
        try:
            assert reached.wait(60)
            assert torch.backends.mha.get_fastpath_enabled() and not cost.counting()
            assert not torch.jit.is_tracing() and torch._C._len_torch_dispatch_stack() == 0
            with torch.inference_mode():
                found = [layer(tokens), *(model(x) for model, x in zip(models, inputs, strict=True))]
            built = zoo.create_model("vit_test", channel_mixer="moe")
        finally:
            go_on.set()
        assert [count.result().macs for count in counts] == [32, 32]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert "moe" in built.config["channel_mixer"][0].name
    assert warnings.filters == filters and torch.backends.mha.get_fastpath_enabled()


def test_filters_of_warnings_are_put_back_when_counts_overlap():
    """The second begins within the first and, if it did not wait its turn, would end after it."""
    filters = list(warnings.filters)
    inside, second_inside, first_done = (threading.Event() for _ in range(3))

    class First(nn.Identity):
        def forward(self, x):
            inside.set()
            second_inside.wait(0.5)  # in vain where turns are taken
            return x

    class Second(nn.Identity):
        def forward(self, x):
            second_inside.set()
            first_done.wait(60)
            return x

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(zoo.count_flops, First(), (8,))
        first.add_done_callback(lambda _: first_done.set())
        assert inside.wait(60)
        pool.submit(zoo.count_flops, Second(), (8,)).result()
    assert warnings.filters == filters


def test_fused_attention_is_counted_by_what_it_computes_with_its_switch_left_alone():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    one, two = (zoo.count_flops(module.eval(), (5, 8)) for module in (layer, encoder))
    assert one.by_operator == {"linear": 5 * (4 * 8 * 8 + 2 * 8 * 16), "scaled_dot_product_attention": 2 * 5 * 5 * 8}
    assert two.macs == 2 * one.macs and not encoder.training and layer.self_attn.dropout == 0.5
