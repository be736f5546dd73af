"""The layout: imports go down without a circle, files stay short, and the tests stand as the package stands."""

import re

import pytest
from conftest import ROOT

from benchmarks import layout

TESTS = ROOT / "tests"
NOT_OF_THE_PACKAGE = {"data", "recipes"}  # folders of tests/: what tests read, and tests of the folder recipes/


def test_every_file_has_a_room():
    assert {layout.room(name) for name in layout.modules()} == set(layout.ROOMS)


@pytest.mark.parametrize("room", layout.ROOMS)
def test_imports_go_down(room):
    """Within functions too: an import there would hide the same dependence from Python alone."""
    found = [each for name in layout.modules() if layout.room(name) == room for each in layout.imports(name)]
    above = layout.ROOMS[: layout.ROOMS.index(room)]
    assert not [str(each) for each in found if layout.room(each.target) in above]


def test_imports_close_no_circle():
    assert layout.circles() == []


def test_circles_and_wrong_directions_would_be_seen(monkeypatch):
    """The checks above see what they are to see."""
    read = {f"zoo.{room}.{name}": f"import zoo.{to}" for room, name, to in [
        ("slots", "a", "slots.b"), ("slots", "b", "slots.c"), ("slots", "c", "slots.a"), ("checks", "d", "slots.a"),
    ]}  # fmt: skip
    monkeypatch.setattr(layout, "modules", lambda: dict.fromkeys(read))
    monkeypatch.setattr(layout, "tree", lambda name: layout.ast.parse(read[name]))
    assert layout.circles() == [["zoo.slots.a", "zoo.slots.b", "zoo.slots.c"]]
    (found,) = layout.imports("zoo.checks.d")
    assert layout.room(found.target) in layout.ROOMS[: layout.ROOMS.index("checks")]


def test_families_know_no_more_than_their_skeletons():
    """A family's file is data; what builds, saves or lists models stands above it."""
    allowed = set(layout.ROOMS[layout.ROOMS.index("models") :])
    assert {layout.room(each.target) for name in layout.below("zoo.models") for each in layout.imports(name)} <= allowed


def test_no_file_is_long():
    assert not {name: layout.lines(name) for name in layout.modules() if layout.lines(name) > 400}


def test_channel_mixers_are_thin():
    assert sum(map(layout.lines, layout.below("zoo.blocks.channel"))) < 1000


def test_few_lines_hand_things_on():
    assert layout.share_of_handing_on() < 0.08


def test_tests_mirror_the_package():
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    folders -= {folder for folder in folders if folder.parts[:1] and folder.parts[0] in NOT_OF_THE_PACKAGE}
    assert not [str(folder) for folder in folders if not (layout.PACKAGE / folder / "__init__.py").exists()]


def test_every_room_that_is_a_folder_has_tests():
    rooms = {room for room in layout.ROOMS if (layout.PACKAGE / room).is_dir()} - {"zoo"}
    assert not [room for room in rooms if not any((TESTS / room).rglob("test_*.py"))]


def test_names_of_test_files_are_unique():
    """pytest imports a file by its name alone, and helpers beside the tests are imported so too."""
    names = [path.stem for path in TESTS.rglob("*.py")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_the_map_has_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("\n## The map\n")[2].partition("<!-- counts -->")[0]
    named = [name.strip("/").removesuffix(".py") for name in re.findall(r"\*\*`([\w./]+)`\*\*", text)]
    assert named == list(layout.ROOMS[1:]), "in the order in which they may import each other"
