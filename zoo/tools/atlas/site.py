"""Writes the site: its pages as Markdown in a folder of their own, which MkDocs then makes into HTML."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.checks import shown, unknown
from zoo.tools.atlas import reference
from zoo.tools.atlas.family import family_page
from zoo.tools.atlas.home import home_page, models_page
from zoo.tools.atlas.plot import SCRIPT, draw_front
from zoo.tools.atlas.target import MARK, check_installed, checked_target
from zoo.tools.catalogue import page as blocks_page
from zoo.tools.index import known

WORKER = Path(__file__).parent / "iframe-worker.js"  # the plugin of offline search looks for a polyfill of that name
OF_A_SERVER = ("404.html", "sitemap.xml", "sitemap.xml.gz")  # what MkDocs writes for one, with absolute addresses
NOT_HERE = re.compile(r"Written by `make card`[^.]*?by hand\.\s+")  # how a page comes about is no matter of the site
Recipes = Mapping[str, Sequence[tuple[str, str]]]


def write_atlas(
    folder: str | os.PathLike,
    families: Sequence[str] | None = None,
    recipes: Recipes | None = None,
    more: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the atlas, a static site that needs no network: open its ``index.html``.

    Args:
        folder: Where; it is made if it is not there. An atlas that is there is replaced, with everything in its folder,
            once the new one is whole.
        families: The families that get pages; by default all.
        recipes: Files and titles of recipes, by the architecture that they train.
        more: Further pages, Markdown by title.
        progress: Called with the number of families that are done and of all.

    Returns:
        The path of the first page.

    Raises:
        ValueError: A family is unknown, or the folder holds something else than an atlas or cannot be written.
        TypeError: The families are one text.
        ModuleNotFoundError: MkDocs or another part of the extra ``atlas`` is not installed.
    """
    if isinstance(families, str):
        raise TypeError(f"families is the text {shown(families)}; give a list of names")
    index = known()
    for name in families or ():
        if name not in index["families"]:
            raise ValueError(unknown(f"family {shown(name)}", name, index["families"], count=3))
    check_installed()
    target = checked_target(folder)
    chosen = sorted({*(families or index["families"])})
    models = {arch: entry for arch, entry in index["models"].items() if entry["family"] in chosen}
    with tempfile.TemporaryDirectory(prefix=".atlas-", dir=target.parent) as place:
        source, site = Path(place) / "pages", Path(place) / "site"
        nav = _write_pages(source, chosen, models, recipes or {}, more or {}, progress)
        _build(source, site, nav)
        for name in OF_A_SERVER:
            (site / name).unlink(missing_ok=True)
        (site / MARK).touch()
        _replace(target, site, Path(place) / "before")
    return Path(folder) / "index.html"


def _write_pages(
    source: Path,
    families: Sequence[str],
    models: Mapping[str, Any],
    recipes: Recipes,
    more: Mapping[str, str],
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    """Write the Markdown and what it shows; returns the navigation."""
    from plotly.offline import get_plotlyjs

    def write(name: str, text: str) -> str:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return name

    write(f"assets/{SCRIPT}", get_plotlyjs())
    (source / "pictures").mkdir()
    draw_front(source / "pictures" / "pareto.svg", models)
    write(f"assets/{WORKER.name}", WORKER.read_text("utf-8"))
    nav: list[dict[str, Any]] = [
        {"Home": write("index.md", home_page(models))},
        {"Models": write("models.md", models_page(models))},
    ]
    pages = []
    for number, name in enumerate(families):
        page = family_page(name, {a: e for a, e in models.items() if e["family"] == name}, recipes)
        for arch, drawing in page.drawings.items():
            write(f"families/{arch}.svg", drawing)
        pages.append({name: write(f"families/{name}.md", page.text)})
        if progress:
            progress(number + 1, len(families))
    written = {"Blocks": blocks_page(), **more}
    guides = [{title: write(f"guides/{_file(title)}", NOT_HERE.sub("", text))} for title, text in written.items()]
    api = [{title: write(f"api/{_file(title)}", text)} for title, text in reference.pages().items()]
    return [*nav, {"Families": pages}, {"Reference": guides}, {"API": api}]


def _file(title: str) -> str:
    return re.sub(r"\W+", "_", title.lower()).strip("_") + ".md"


def _build(source: Path, site: Path, nav: list[dict[str, Any]]) -> None:
    """Make HTML of the pages."""
    import yaml

    with _environment_kept():
        from mkdocs.commands.build import build
        from mkdocs.config import load_config

    package = Path(__file__).parents[2]
    docstrings = {
        "docstring_style": "google",
        "docstring_options": {
            "warnings": False,  # griffe wants types in the docstring too
            "returns_multiple_items": False,
            "returns_named_value": False,
        },
        "show_source": False,
        "merge_init_into_class": True,
        "show_root_heading": True,
        "show_root_full_path": False,
        "heading_level": 2,
        "members": False,
        "separate_signature": True,
        "show_signature_annotations": True,
        "extensions": ["zoo.tools.atlas.docstrings:Readable"],
    }
    handlers = {"python": {"paths": [str(package.parent)], "options": docstrings}}
    config = {
        "site_name": "zoo",
        "docs_dir": str(source),
        "site_dir": str(site),
        "nav": nav,
        "use_directory_urls": False,  # so that the pages work from a disk, without a server
        "theme": {
            "name": "material",
            "font": False,  # or it would come from the network
            "features": ["navigation.tabs", "navigation.sections", "content.code.copy", "toc.follow"],
        },
        "plugins": ["search", "offline", {"mkdocstrings": {"handlers": handlers}}],
        "markdown_extensions": [
            *("tables", "attr_list", "admonition", "pymdownx.superfences", "pymdownx.highlight"),
            {"pymdownx.tabbed": {"alternate_style": True}},
        ],
        "extra": {"generator": False, "polyfills": [f"assets/{WORKER.name}"]},
    }
    path = source.parent / "mkdocs.yml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    with _environment_kept():
        build(load_config(str(path)))


def _replace(target: Path, site: Path, before: Path) -> None:
    """Put the new site where the old one was; whatever happens in between, one of the two is there."""
    try:
        if target.exists():
            target.rename(before)
        site.rename(target)
    except BaseException:
        if before.exists() and not target.exists():
            before.rename(target)
        raise
    shutil.rmtree(before, ignore_errors=True)


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Within it, what a library sets in the environment of the process is for that library alone."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
