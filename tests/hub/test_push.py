"""Models to the Hub: the Hub's own client commits them to a process on this machine, and whatever goes wrong."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
import uploads
from conftest import images, randomised
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import _http
from server import TOKEN, reached_at, serving
from test_save import glu

import zoo
from zoo.tools.readme import Training, is_own, readme, signed


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("hub"), uploads.__file__) as found:
        yield found


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    reached_at(monkeypatch, server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return server


@pytest.fixture
def name(request) -> str:
    """A repository of the test's own."""
    return "me/" + re.sub("[^a-z0-9]+", "-", request.node.name)[:60].strip("-")


def files(hub, name: str, revision: str = "main") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (hub.folder / name / revision).iterdir()}


def assert_comes_back(model: torch.nn.Module, name: str) -> None:
    x = images(model)
    assert torch.equal(zoo.create_model(f"hf-hub:{name}").eval()(x), model(x))


# --- What goes well ---------------------------------------------------------------------------------------------------


def test_what_is_pushed_comes_back(hub, name):
    model = glu(num_classes=3)
    commit = zoo.push_to_hub(model, name, token=TOKEN, commit_message="The first")
    assert commit.oid and commit.commit_message == "The first" and commit.repo_url.repo_id == name
    assert files(hub, name).keys() == {"README.md", "config.json", "model.safetensors"}
    assert_comes_back(model, name)
    x = images(model)
    assert torch.equal(timm.create_model(f"hf-hub:{name}", pretrained=True).eval()(x), model(x))
    again = glu(num_classes=4)
    assert zoo.push_to_hub(again, name, token=TOKEN).oid != commit.oid  # a commit more, on a page of zoo's own
    assert_comes_back(again, name)
    assert is_own(files(hub, name)["README.md"].decode())


def test_a_model_of_timms_is_timms_on_the_hub_too(hub, name):
    model = randomised(zoo.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64))
    zoo.push_to_hub(model, name, token=TOKEN)
    theirs, x = timm.create_model(f"hf-hub:{name}", pretrained=True).eval(), images(model)
    assert type(theirs).__module__ == "timm.models.vision_transformer"
    torch.testing.assert_close(theirs(x), model(x), rtol=1e-4, atol=1e-4)
    assert_comes_back(model, name)
    card = ModelCard(files(hub, name)["README.md"].decode())
    assert card.data.library_name == "timm" and {"timm", "transformers"} <= set(card.data.tags)


def test_several_files_and_one_again(hub, name):
    """What the weights of an older commit are called would be found before the new ones, so it goes; nothing else."""
    model = glu()
    zoo.push_to_hub(model, name, token=TOKEN, max_shard_size="20KB")
    assert "model.safetensors.index.json" in files(hub, name) and "model.safetensors" not in files(hub, name)
    assert_comes_back(model, name)
    hub.put(name, {"notes.txt": b"mine"})
    zoo.push_to_hub(model, name, token=TOKEN)
    assert files(hub, name).keys() == {"README.md", "config.json", "model.safetensors", "notes.txt"}
    assert_comes_back(model, name)


def test_a_page_of_ones_own_stays(hub, name):
    model = glu()
    zoo.push_to_hub(model, name, token=TOKEN, page="# Mine\n")
    assert files(hub, name)["README.md"] == b"# Mine\n"
    zoo.push_to_hub(glu(), name, token=TOKEN)
    assert files(hub, name)["README.md"] == b"# Mine\n"


def test_branches_and_proposals(hub, name):
    one, two, three = glu(), glu(), glu()
    zoo.push_to_hub(one, name, token=TOKEN)
    zoo.push_to_hub(two, name, token=TOKEN, revision="v2")
    assert_comes_back(one, name)
    assert_comes_back(two, f"{name}@v2")
    commit = zoo.push_to_hub(three, name, token=TOKEN, create_pr=True)
    assert commit.pr_url.endswith("/discussions/1")
    assert_comes_back(one, name)


# --- What goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token, words", [(False, "the Hub does not know you.*HF_TOKEN"), ("hf_other", "may not write")]
)
def test_who_may_not_write_is_told(token, words, hub, name):
    model = glu()
    with pytest.raises(ValueError, match=f"hf-hub:{name} cannot be pushed to.*{words}"):
        zoo.push_to_hub(model, name, token=token)
    assert not (hub.folder / name).exists()
    zoo.push_to_hub(model, name, token=TOKEN)
    before = files(hub, name)
    with pytest.raises(ValueError, match=words):
        zoo.push_to_hub(glu(), name, token=token)
    assert files(hub, name) == before


def test_a_connection_that_is_cut_leaves_the_old_commit(hub, name, monkeypatch):
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # the client waits longer each time
    old, new = glu(), glu()
    zoo.push_to_hub(old, name, token=TOKEN)
    before = files(hub, name)
    hub.fault(name, cut=None)
    with pytest.raises(ValueError, match="cannot be pushed to, and is as it was: .*Try again later"):
        zoo.push_to_hub(new, name, token=TOKEN)
    assert files(hub, name) == before
    hub.fault(name, cut=2)  # less often than the client tries
    zoo.push_to_hub(new, name, token=TOKEN)
    assert_comes_back(new, name)


@pytest.mark.parametrize("wrong", ["a/b/c", "me/..", "me/a b"])
def test_names_that_no_repository_has(wrong, hub):
    with pytest.raises(ValueError, match="is no name of a repository; write owner/name"):
        zoo.push_to_hub(glu(), wrong, token=TOKEN)


def test_what_cannot_be_saved_asks_the_hub_nothing(hub, name):
    with pytest.raises(TypeError, match="takes a model of zoo.create_model"):
        zoo.push_to_hub(torch.nn.Linear(2, 2), name, token=TOKEN)
    assert not hub.asked(name)


# --- The page ---------------------------------------------------------------------------------------------------------


def test_the_page_says_what_is_known(tmp_path):
    model = glu(num_classes=3)
    zoo.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    training = Training("base: digits/mixer.yaml\n", "digits", {"test/top1": 98.5, "test/loss": 0.25})
    card = ModelCard(text := readme(model, "me/mine", config, licence="mit", training=training))
    assert card.data.license == "mit" and card.data.library_name == "zoo" and card.data.datasets == ["digits"]
    assert card.data.pipeline_tag == "image-classification" and card.data.eval_results[0].metric_value == 98.5
    costs = zoo.count_flops(model)
    for part in (
        f"| parameters | {costs.params:,} |",
        f"| MACs | {costs.macs:,} |",
        "| input | 3 x 32 x 32 |",
        "| test/top1 | 98.5 |",
        "base: digits/mixer.yaml",
        'zoo.create_model("hf-hub:me/mine")',
        "import zoo  # tells timm of it",
        "- `channel_mixer`: `glu`",
        "```bibtex",
        "eprint = {2010.11929}",
    ):
        assert part in text, part
    assert "transformers" not in text and str(tmp_path) not in text


def test_a_licence_is_claimed_for_the_weights_that_have_it_alone(tmp_path):
    """A configuration says what the released weights are under, which a model that began anew has nothing of."""

    def saved(model):
        zoo.save_pretrained(model, tmp_path / "model")
        cfg = json.loads((tmp_path / "model" / "config.json").read_text())["pretrained_cfg"]
        return cfg.get("license"), cfg.get("hf_hub_id")

    model = zoo.create_model("vit_digits", pretrained=True)
    assert saved(model)[0] == "apache-2.0" == saved(zoo.create_model(f"local-dir:{tmp_path / 'model'}"))[0]
    assert saved(zoo.create_model("vit_digits")) == (None, None)
    path = tmp_path / "mine.pth"
    torch.save(model.state_dict(), path)
    assert saved(zoo.create_model("vit_digits", checkpoint_path=path))[0] is None
    new = zoo.create_model("poolformer_s12", depths=(1, 1, 1, 1))
    assert new.pretrained_cfg["license"] == "apache-2.0" and saved(new) == (None, None)


def test_a_page_is_known_as_zoos_until_it_is_changed(tmp_path: Path):
    page = signed("# A model\n\nText.\n")
    assert is_own(page) and is_own(page.replace("\n", "\r\n"))
    for other in (page.replace("Text", "My text"), page + "More.\n", "# A model\n", ""):
        assert not is_own(other)
