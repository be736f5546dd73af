"""Files of heads are input: what a header asks for is compared with the weights first, and refused by its file."""

import json
import resource

import pytest
import torch
from conftest import randomised
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from zoo.training import Classifier, Dense, MultiTask, Pyramid, Segmenter

FILES = {Segmenter: ("head.safetensors", "pyramid"), MultiTask: ("heads.safetensors", "heads")}


@pytest.fixture(params=[Segmenter, MultiTask], ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def saved(kind, folder):
    """A small model of a kind, saved in the folder."""
    if kind is Segmenter:
        model = Segmenter("vit_test", Pyramid(num_classes=3, width=8, out_indices=(0, 1)), in_chans=1)
    else:
        model = MultiTask("m3vit_test", {"digit": Classifier(5, task=0), "ink": Dense(2, width=8, task=1)}, in_chans=1)
    randomised(model).save(folder)
    return model


def rewrite(kind, folder, *, config=None, tensors=None, **metadata):
    """Change what the file of heads says: its configuration, its tensors, its metadata."""
    path = folder / FILES[kind][0]
    with safe_open(path, "pt") as file:
        said = file.metadata()
    state = load_file(path)
    if config is not None:
        said[FILES[kind][1]] = json.dumps(config(json.loads(said[FILES[kind][1]])))
    if tensors is not None:
        state = tensors(state)
    save_file(state, path, metadata=said | metadata)


def refused(kind, folder) -> str:
    with pytest.raises(ValueError) as error:
        kind.open(folder)
    told = str(error.value)
    assert told.startswith(str(folder / FILES[kind][0])), told
    assert len(told) < 2000 and told.isprintable(), told
    return told


def pyramid(kind, **values):
    """A change of a configuration: of the pyramid, or of the head of pixels."""
    return lambda found: found | (values if kind is Segmenter else {"ink": found["ink"] | values})


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_what_the_header_asks_for_is_not_allocated_before_it_fits(kind, tmp_path):
    saved(kind, tmp_path)
    rewrite(kind, tmp_path, config=pyramid(kind, num_classes=10_000, width=2048))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = refused(kind, tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; they were 1.8 million and more
    assert "shapes that differ" in told and "logits.bias" in told


def test_a_classifier_is_not_allocated_before_it_fits(tmp_path):
    saved(MultiTask, tmp_path)
    rewrite(MultiTask, tmp_path, config=lambda found: found | {"digit": found["digit"] | {"num_classes": 100_000}})
    assert "digit.bias: (5,) in the file, (100000,) in the model" in refused(MultiTask, tmp_path)


def test_heads_without_weights_are_refused_at_the_first(tmp_path, monkeypatch):
    """Each is compared before the next is made: hundreds of them take no time."""
    saved(MultiTask, tmp_path)
    rewrite(MultiTask, tmp_path, config=lambda found: {f"a{i}": found["ink"] for i in range(200)} | found)
    made = []
    make = MultiTask._make
    monkeypatch.setattr(MultiTask, "_make", lambda *given: made.append(1) or make(*given))
    assert "the source lacks" in refused(MultiTask, tmp_path) and len(made) == 1


@pytest.mark.parametrize("values", [{"num_classes": 10_001}, {"num_classes": 0}, {"width": 2049}, {"width": -1}])
def test_classes_and_widths_have_ranges(kind, values, tmp_path):
    saved(kind, tmp_path)
    rewrite(kind, tmp_path, config=pyramid(kind, **values))
    assert f"{next(iter(values))} is {next(iter(values.values()))}; it must be" in refused(kind, tmp_path)


# --- Numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x.to(torch.int8), "is of torch.int8"),
        (lambda x: x > 0, "is of torch.bool"),
        (lambda x: x.to(torch.complex64), "is of complex numbers"),
        (lambda x: torch.full_like(x, 1e300, dtype=torch.float64), "numbers up to 1e+300"),
        (lambda x: x[:-1].clone(), "shapes that differ"),
    ],
)
def test_weights_of_another_kind_are_refused(kind, change, told, tmp_path):
    saved(kind, tmp_path)
    key = "logits.weight" if kind is Segmenter else "ink.logits.weight"
    rewrite(kind, tmp_path, tensors=lambda state: state | {key: change(state[key])})
    message = refused(kind, tmp_path)
    assert key in message and told in message


@pytest.mark.parametrize("key", ["extra.weight", "extra", "\x1b[31m" + "z" * 5000])
def test_weights_of_no_head_are_refused(kind, key, tmp_path):
    saved(kind, tmp_path)
    rewrite(kind, tmp_path, tensors=lambda state: state | {key: torch.zeros(1)})
    assert "has no place for" in refused(kind, tmp_path)


def test_weights_that_lack_are_refused(kind, tmp_path):
    saved(kind, tmp_path)
    rewrite(kind, tmp_path, tensors=lambda state: dict(list(state.items())[:-1]))
    assert "the source lacks (1)" in refused(kind, tmp_path)


# --- What is said ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["\x1b[31m" + "z" * 5000, "../elsewhere", "", "a\0b"])
def test_the_name_of_the_model_below_is_shown_in_short(kind, name, tmp_path):
    saved(kind, tmp_path)
    below = "backbone" if kind is Segmenter else "trunk"
    rewrite(kind, tmp_path, **{below: name})
    assert f"as its {below}, which {kind.__name__}.save never does" in refused(kind, tmp_path)


@pytest.mark.parametrize("indices", [[], [77], [0, 999], [-77]])
def test_levels_that_are_not_there(kind, indices, tmp_path):
    saved(kind, tmp_path)
    rewrite(kind, tmp_path, config=pyramid(kind, out_indices=indices))
    assert "out_indices" in refused(kind, tmp_path)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (lambda found: {}, "heads is empty"),
        (lambda found: found | {"ink": found["ink"] | {"task": 3}}, "head ink: task is 3"),
        (lambda found: found | {"ink": found["ink"] | {"task": None}}, "head ink: task is None"),
        (lambda found: found | {"__init__": found["ink"]}, "a task cannot be called '__init__'"),
        (lambda found: found | {"keys": found["ink"]}, "a task cannot be called 'keys'"),
        (lambda found: found | {"Z" * 900: found["ink"]}, "a task cannot be called 'ZZZ"),
    ],
)
def test_heads_that_cannot_be(config, told, tmp_path):
    saved(MultiTask, tmp_path)
    rewrite(MultiTask, tmp_path, config=config)
    assert told in refused(MultiTask, tmp_path)


@pytest.mark.parametrize("name", ["a\0b", "\x1b[31m", "z" * 5000])
def test_a_folder_that_cannot_be(kind, name):
    with pytest.raises(FileNotFoundError, match=f"holds no {kind.__name__}") as error:
        kind.open(name)
    assert str(error.value).isprintable() and len(str(error.value)) < 2000


# --- What is right stays ----------------------------------------------------------------------------------------------


def test_what_is_opened_is_what_was_saved(kind, tmp_path):
    model = saved(kind, tmp_path)
    again = kind.open(tmp_path)
    assert list(again.state_dict()) == list(model.state_dict()) and again.config == model.config
    for key, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]) and value.device.type == "cpu", key
    assert all(p.requires_grad for p in again.parameters()) and again.training


def test_half_precision_widens(kind, tmp_path):
    """What the model's type holds exactly is no other kind of numbers."""
    model = saved(kind, tmp_path)
    rewrite(kind, tmp_path, tensors=lambda state: {k: v.half() if v.ndim else v for k, v in state.items()})
    heads = (kind.open(tmp_path).head, model.head) if kind is Segmenter else (kind.open(tmp_path).heads, model.heads)
    for ours, theirs in zip(*(part.parameters() for part in heads), strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs.half().float())
