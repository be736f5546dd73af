"""The atlas in a browser, from the disk and without a network: it draws, sorts, filters, finds, and logs no error."""

import os

from browser import open_page  # noqa: F401 (a fixture)

from zoo.tools.atlas import write_atlas
from zoo.tools.atlas.target import MARK

FAMILIES = ("kan", "mixer", "poolformer")


def test_the_site_in_a_browser(tmp_path, open_page):  # noqa: F811
    site = tmp_path / "site"
    done = []
    first = write_atlas(site, FAMILIES, more={"Extra": "# Extra\n\nA page more."}, progress=lambda *n: done.append(n))
    assert first == site / "index.html" and (site / MARK).exists()
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    the_plot_draws(open_page(first))
    the_table_sorts_and_filters(open_page(site / "models.html"))
    a_family_shows_its_drawing(open_page(site / "families" / "poolformer.html"))
    the_search_finds(open_page(site / "guides" / "extra.html"))
    the_api_is_there(open_page(site / "api" / "models.html"))
    options_have_defaults(open_page(site / "api" / "blocks_token_mixer.html"))
    before = dict(os.environ)
    for path in sorted(site.rglob("*.html")):  # whatever they load is on the disk
        open_page(path).close()
    assert os.environ == before


def the_plot_draws(page):
    page.wait_for_selector("#pareto .scatterlayer .point")
    assert page.locator("#pareto .scatterlayer .point").count() == 8  # the weights with an accuracy of these families
    title = page.locator("#pareto .xtitle")
    assert title.text_content() == "G MACs of one image"
    before = page.locator("#pareto .scatterlayer .point").first.get_attribute("transform")
    page.locator("#pareto .updatemenu-button", has_text="M parameters").first.click()
    page.wait_for_function("document.querySelector('#pareto .xtitle').textContent == 'M parameters'")
    assert page.locator("#pareto .scatterlayer .point").first.get_attribute("transform") != before
    assert page.locator("#pareto .legendtext").all_text_contents() == ["mixer", "poolformer", "Pareto front"]


def the_table_sorts_and_filters(page):
    page.wait_for_selector("#models tbody tr td a")
    cells = lambda column: page.locator(f"#models tbody tr td:nth-child({column})").all_inner_texts()
    best = [float(text) for text in cells(3) if text]
    assert best == sorted(best, reverse=True) and best[0] == 82.462  # published, of poolformer_m48
    page.locator(".dt-scroll-head th", has_text="parameters (M)").first.click()
    page.wait_for_function("document.querySelector('#models tbody td').innerText == 'mlp_test'")
    sizes = [float(text) for text in cells(4)]
    assert sizes == sorted(sizes) and len(sizes) == 25
    page.locator(".dt-scroll-head .dtcc-search input").nth(1).fill("poolformer")
    page.wait_for_function("document.querySelectorAll('#models tbody tr').length == 6")
    assert set(cells(2)) == {"poolformer"}
    page.locator("#models tbody a", has_text="poolformer_m36").first.click()
    page.wait_for_url("**/families/poolformer.html")


def a_family_shows_its_drawing(page):
    drawing = page.locator("img[src='poolformer_s12.svg']")
    assert drawing.evaluate("image => image.naturalWidth") > 400
    page.locator("label", has_text="poolformer_m48").first.click()
    table = page.locator(".tabbed-block:visible table")
    assert "stages.3" in table.inner_text() and table.locator("tbody tr").count() == 8


def the_search_finds(page):
    page.locator(".md-search__input").click()
    page.keyboard.type("average pooling", delay=20)
    page.wait_for_selector(".md-search-result__item a[href*='poolformer']")


def the_api_is_there(page):
    assert page.locator("h2", has_text="zoo.create_model").count() == 1
    assert page.locator("h2", has_text="zoo.save_pretrained").count() == 1


def options_have_defaults(page):
    row = page.locator("table tr", has_text="Number of heads").first
    assert row.locator("td").nth(1).inner_text() == "int (from 1 to 65536) or None"
    assert row.locator("td").last.inner_text() == "None"
