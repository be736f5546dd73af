"""The examples that train zoo's models by the loops of others: each runs, and its model opens again."""

import pytest
from conftest import ROOT

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

import zoo
from recipes.examples import timm_script

EXAMPLES = ROOT / "recipes" / "examples"


def runs(example, folder):
    accuracy = example.main(str(folder), steps=25)
    assert 0.5 < accuracy < 1  # chance is a tenth; after all of its steps it is above 0.96
    model = zoo.create_model(f"local-dir:{folder}/model")
    assert model.num_classes == 10 and "moe" in str(model.blocks[0].channel_mixer.__class__).lower()


def test_hugging_faces_trainer(tmp_path):
    pytest.importorskip("transformers", reason="of another project")
    from recipes.examples import hf_trainer

    runs(hf_trainer, tmp_path)


def test_a_lightning_module(tmp_path):
    pytest.importorskip("lightning", reason="of another project")
    from recipes.examples import lightning_module

    runs(lightning_module, tmp_path)


def test_scripts_that_ask_timm_for_models_know_those_of_zoo(tmp_path, capsys, monkeypatch):
    script = tmp_path / "script.py"
    (tmp_path / "beside.py").write_text("NAME = 'identityformer_s12'")
    script.write_text("import sys, timm\nfrom beside import NAME\nprint(sys.argv[1:], timm.is_model(NAME), __name__)\n")
    monkeypatch.setattr("sys.argv", ["pytest"])
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    timm_script.main([str(script), "--model", "x"])
    assert capsys.readouterr().out == "['--model', 'x'] True __main__\n"
    assert "--model" in (EXAMPLES / "README.md").read_text("utf-8")
