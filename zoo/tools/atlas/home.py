"""The first page, with the plot, and the page with the table of all models."""

from collections.abc import Mapping
from typing import Any

from zoo.tools.atlas.plot import plot_html
from zoo.tools.atlas.table import table_html
from zoo.version import __version__

HOME = """\
---
hide: [navigation, toc]
---

# Atlas of zoo {version}

{models} models of {families} families, {weights} sets of released weights. Costs are counted on the models as they are
built, for one input of the size that each set of weights was made for. Accuracy is what is published for the weights;
zoo has not measured it again. Weights differ in the data that they were trained on: a name with `in22k`, `clip` or
`laion` saw more than ImageNet-1K.

A click in the legend hides a family, a double click shows it alone; a click on a point opens its family's page.
[The table](models.md) has every model, and filters by any column.

<div markdown="0">
{plot}
</div>
"""
MODELS = """\
---
hide: [navigation, toc]
---

# Models and weights

A row for each set of weights, and for each model without any. A click on a title sorts, the fields below the titles
filter; the sign in a field chooses how, by more or less for numbers. Costs are of one input of the size in the row.

<div class="zoo-table" markdown="0">
{style}
{table}
</div>
"""
# As wide as the window; and what stands beside and below the titles fits into its column, whatever the theme says.
STYLE = """\
<style>
  .md-grid { max-width: 100rem; }
  .zoo-table { font-size: 0.7rem; }
  .zoo-table th .dt-column-header { gap: 0.4em; padding-right: 0.6em; }
  .zoo-table .dtcc:not(:has(input)) { flex: none; }
  .zoo-table .dtcc:has(input) { flex: 1; min-width: 0; }
</style>"""


def home_page(models: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown of the first page."""
    counts = {
        "models": len(models),
        "families": len({entry["family"] for entry in models.values()}),
        "weights": sum(each["weights"] is not None for entry in models.values() for each in entry["configurations"]),
    }
    return HOME.format(version=__version__, plot=plot_html(models), **counts)


def models_page(models: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown of the page with the table."""
    return MODELS.format(style=STYLE, table=table_html(models))
