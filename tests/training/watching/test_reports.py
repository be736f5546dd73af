"""report.html: whole, of one file, with whatever a folder's classes are called, and right about the mistakes."""

import base64
import io
import json
import re
from importlib.metadata import version
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from browser import open_page  # noqa: F401 (a fixture)
from conftest import ROOT
from torch import nn
from trainings import TINY

from zoo.training import Trainer, load_recipe
from zoo.training.data.splits import TensorSplit
from zoo.training.runs.folder import RunFolder
from zoo.training.watching import answers
from zoo.training.watching.answers import Asked, answers_of
from zoo.training.watching.curves import panels
from zoo.training.watching.report import report_of_training, write_report
from zoo.training.watching.sessions import Session
from zoo.training.watching.thumbnails import thumbnail

TEXT = TINY
SHORT = ("train.duration=2st", "train.eval_every=1st", "train.checkpoint_every=2st", "schedule.warmup=0st")
HOSTILE = '\x01猫 $x_1$ & "é" <script>alert(1)</script>'


def trained(recipe, folder):
    Trainer(recipe, folder).run()
    return write_report(folder).read_text("utf-8")


def pictures(page):
    """Every picture in a page, each of which can be opened."""
    found = []
    for kind, content in re.findall(r'src="data:image/([a-z+]+);base64,([^"]+)"', page):
        content = base64.b64decode(content)
        if kind == "png":
            Image.open(io.BytesIO(content)).load()
        else:
            assert content.startswith(b"<?xml") and b"</svg>" in content
        found.append((kind, content))
    return found


def svg_texts(page):
    return "".join(content.decode() for kind, content in pictures(page) if kind == "svg+xml")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of a short run on the digits, and its page."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "tiny.yaml").write_text(TINY)
    run = folder / "run"
    recipe = load_recipe(folder / "tiny.yaml", ["train.eval_every=2st"])
    trainer = Trainer(recipe, run)
    session = Session(run.parent)  # what the watch of a training writes, whose file is put into the run's folder then
    metrics = trainer.run()
    session.note(6, 65.25, 123.4)
    session.path.rename(run / session.path.name)
    report = write_report(run)
    assert report == run / "report.html"
    return run, report.read_text("utf-8"), metrics


def test_a_report_is_one_small_file_that_asks_for_nothing(digits):
    run, page, _ = digits
    assert len(page.encode()) < 3_000_000
    assert "<script" not in page and "default-src 'none'" in page
    sources = re.findall(r"(?:src|href)=.(.{5})", page)
    assert sources and set(sources) == {"data:"} and "url(" not in page and "@import" not in page


def test_a_browser_shows_it_whole_and_narrow(digits, open_page):  # noqa: F811
    run, _, _ = digits
    page = open_page(run / "report.html")
    loaded = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert len(loaded) > 20 and min(loaded) >= 8  # the digits are as small
    for width in (1400, 380):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h2").all_inner_texts()[:2] == ["Curves", "Metrics"]


def test_it_has_curves_costs_recipe_machine_versions_and_the_verdict(digits):
    run, page, metrics = digits
    drawn = re.findall(r"<h3>(.*?)</h3><img", page)
    assert drawn[:2] == ["loss", "top1"] and drawn[-3:] == ["lr", "grad_norm", "Confusion matrix"]
    assert f"<b>{metrics['test/top1']:.4g}</b>" in page and "untested, there is nothing to compare with" in page
    assert "token_mixer" in page and "duration: 6st" in page and f"<dd>{version('torch')}</dd>" in page
    assert "<b>01:05</b>" in page and "<b>123</b>" in page and "0 to 6" in page and re.search(r"1 process\b", page)
    texts = svg_texts(page)
    assert ">validation</text>" in texts and ">train</text>" in texts and ">predicted</text>" in texts


def test_it_is_made_again_the_same_but_for_the_time(digits):
    run, page, _ = digits
    again = write_report(RunFolder(run)).read_text("utf-8")
    without_time = lambda text: re.sub("<footer>.*</footer>", "", text)
    assert without_time(again) == without_time(page)
    assert write_report(run, part="validation").read_text("utf-8").count("validation, 180 examples") == 1
    with pytest.raises(ValueError, match="the part 'tset' of the data is unknown; did you mean 'test'"):
        write_report(run, part="tset")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        write_report(run.parent / "nothing")


def test_names_of_classes_are_escaped(digits, monkeypatch):
    monkeypatch.setattr(answers, "names_of", lambda split, count: [HOSTILE] * count)
    page = write_report(digits[0]).read_text("utf-8")
    assert "<script>" not in page and page.count("&lt;script&gt;alert(1)") > 20


def test_what_cannot_be_written_after_a_training_is_a_warning(digits, monkeypatch):
    run, page, _ = digits
    recipe = load_recipe(run / "recipe.yaml", ["watch.report=false"])
    assert report_of_training(RunFolder(run), recipe, {}, torch.device("cpu")) is None
    recipe = load_recipe(run / "recipe.yaml")
    with pytest.warns(UserWarning, match="there is no report: .*holds no run"):
        report_of_training(RunFolder(run.parent / "nothing"), recipe, {}, torch.device("cpu"))


def test_a_run_that_goes_on_or_has_failed_has_its_curves(make_recipe, tmp_path):
    trainer = Trainer(make_recipe(), tmp_path / "run")
    trainer.fit()  # and no model is saved yet
    page = write_report(tmp_path / "run").read_text("utf-8")
    assert "Not finished: the last record is of step 6" in page and "<h2>Curves" in page and "<h2>Costs" not in page
    trainer.folder.log({"step": 2, "from": "runs/<b>other", "changed": ["optim.lr: 1 -> 2"]})
    trainer.folder.log({"step": 6, "diverged": "the loss is <b>nan</b>"})
    page = write_report(tmp_path / "run").read_text("utf-8")
    assert "began from runs/&lt;b&gt;other, with changes: optim.lr: 1 -&gt; 2." in page
    assert 'class="verdict diverged"' in page and "the loss is &lt;b&gt;nan&lt;/b&gt;" in page


# --- Answers ----------------------------------------------------------------------------------------------------------


class Said(nn.Module):
    """A model whose outputs are its inputs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x, return_aux=False):
        return x.flatten(1) * self.weight


def split_of(logits, labels, **kwargs):
    split = TensorSplit(torch.tensor(logits)[:, None, None], torch.tensor(labels), num_classes=len(logits[0]))
    for name, value in kwargs.items():
        setattr(split, name, value)
    return split


def test_the_worst_mistakes_are_those_of_the_highest_confidence(make_recipe):
    logits = [[4.0, 0.0, 0.0], [0.0, 9.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 5.0], [6.0, 0.0, 0.0]]
    split = split_of(logits, [0, 0, 1, 1, 0], class_names=("ant", HOSTILE, "cat"))
    split.describe = lambda index: f"picture {index}"
    found = answers_of(Asked(Said(), make_recipe("train.batch_size=2"), split, "test"))
    assert [mistake.which for mistake in found.mistakes] == ["picture 1", "picture 3", "picture 2"]
    assert found.mistakes[0].lines == [f"said {HOSTILE}, 100%", "is ant, 0%"]
    assert sorted(found.pairs) == sorted(
        [("ant", HOSTILE, 1, "33.3%"), (HOSTILE, "cat", 1, "50.0%"), (HOSTILE, "ant", 1, "50.0%")]
    )
    rows = {row[0]: row[1:] for row in found.classes}
    assert rows["ant"] == ("3", "66.7", "66.7", "66.7") and rows["cat"] == ("0", "0.0", "–", "0.0")
    assert [row[0] for row in found.classes][-1] == "ant"  # the best one
    drawing = ElementTree.fromstring(base64.b64decode(found.confusion.partition(",")[2]))  # refuses control characters
    assert any("猫 $x_1$" in "".join(text.itertext()) for text in drawing.iter("{http://www.w3.org/2000/svg}text"))


def test_a_thousand_classes_have_no_drawing_of_each_pair(make_recipe):
    logits = torch.randn(40, 200).tolist()
    found = answers_of(Asked(Said(), make_recipe(), split_of(logits, list(range(40))), "test"))
    assert found.confusion is None and len(found.classes) == 200 and len(found.mistakes) <= 24


def test_several_labels_an_image(make_recipe):
    logits = [[5.0, -1.0], [-4.0, 2.0], [3.0, 1.0], [-1.0, -6.0]]
    labels = [[1.0, 1.0], [1.0, 1.0], [0.0, float("nan")], [0.0, 0.0]]
    split = split_of(logits, labels, kind="labels", class_names=("left", "right"))
    found = answers_of(Asked(Said(), make_recipe("train.batch_size=3"), split, "test"))
    assert [(mistake.which, *mistake.lines) for mistake in found.mistakes] == [
        ("image 1", "left, 2%", "has it"),
        ("image 2", "left, 95%", "has it not"),
        ("image 0", "right, 27%", "has it"),
    ]
    rows = {row[0]: row[1:] for row in found.classes}
    assert rows["left"] == ("2", "4", "50.0", "75.0") and rows["right"][:3] == ("2", "3", "100.0")


# --- Other tasks and data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["segment_digits", "conventional_denoise_digits", "modular_digits", "fit_mlp"])
def test_every_task_has_the_parts_that_make_sense(name, tmp_path):
    small = {"segment_digits": ["data.validation=4", "data.test=10"], "fit_mlp": ["train.threads=1"]}
    small["modular_digits"] = ["tasks.canvas.data.validation=4", "tasks.canvas.data.test=10"]
    page = trained(load_recipe(ROOT / "recipes" / f"{name}.yaml", [*SHORT, *small.get(name, [])]), tmp_path / "run")
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    wanted = {"segment_digits": ["labelled", "predicted"], "conventional_denoise_digits": ["wanted", "output"]}
    wanted["modular_digits"] = wanted["segment_digits"]
    assert captions == ["input", *wanted[name]] * 8 if name in wanted else not captions
    assert ("<th>IoU</th>" in page) == (name in ("segment_digits", "modular_digits"))
    assert ("<h2>Costs (digit)</h2>" in page) == (name == "modular_digits")
    assert ("Worst mistakes" in page) == (name != "fit_mlp") and "<h2>Costs" in page and pictures(page)


def test_names_and_paths_of_pictures_are_escaped(tmp_path):
    for part in ("train", "validation"):
        for number, name in enumerate(["<b>bold", "a & b"]):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (20, 16), (90 * number, 60 * i, 30)).save(folder / f"<i>{i}.png")
    recipe = tmp_path / "<u>.yaml"
    recipe.write_text(f"""\
task: {{name: classify}}
model: {{name: mixer_test, kwargs: {{img_size: 8, patch_size: 4, num_classes: 2, depth: 1}}}}
data: {{name: image_folder, root: {json.dumps(str(tmp_path / "data"))}, img_size: 8, workers: 0}}
train: {{duration: 1st, batch_size: 8, eval_every: 1st, checkpoint_every: 1st, threads: 1}}
optim: {{name: adamw, lr: 1e-3, weight_decay: 0.05}}
schedule: {{name: constant}}
expect: {{metric: validation/top1, status: untested, note: "<b>not</b> run"}}
""")
    page = trained(load_recipe(recipe), tmp_path / "run <u>")
    assert not re.search("<(i|u|script)>|<b>(bold|not)", page)
    assert "run &lt;u&gt;" in page and "&lt;b&gt;not&lt;/b&gt; run" in page


def test_thumbnails_are_as_the_picture_was():
    image = torch.tensor([[[0.0, 1.0]], [[0.5, 0.5]], [[1.0, 0.0]]])
    read = lambda uri: list(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).getdata())
    pixels = [(0, 128, 255), (255, 128, 0)]
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    normalised = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert read(thumbnail(image)) == pixels
    assert read(thumbnail(normalised, {"mean": mean, "std": std})) == pixels
    assert read(thumbnail(image[:1] * 9 - 3)) == [0, 255]


def test_statistics_of_layers_are_one_curve_with_their_range():
    records = [{"step": step, "stat/load": [[0.0, 1.0], [0.5]], "loss/balance": step / 2} for step in range(3)]
    balance, load = panels(records)
    assert (balance.title, balance.curves) == ("loss/balance", {"train": ([0, 1, 2], [0.0, 0.5, 1.0])})
    assert (load.title, load.curves) == ("stat/load", {"train": ([0, 1, 2], [0.5] * 3)})
    assert load.ranges == {"train": [(0.0, 1.0)] * 3}
