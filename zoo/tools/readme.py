"""The page of one model on the Hub, a README.md: what it is, costs, was trained on, and how it is opened."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from zoo.costs import count_flops
from zoo.create import create_model
from zoo.hub.arguments import arguments_of
from zoo.registry import family_of
from zoo.tools.atlas.about import citations, parse
from zoo.weights.pretrained import OPENED_BY_ZOO

SIGNED = "<!-- Written by zoo; what was changed is never written over. {} -->"
PROJECT_TAGS = ("zoo", "pytorch")


@dataclass(frozen=True)
class Training:
    """How a model was trained, for its page.

    Attributes:
        recipe: The text of the recipe.
        data: Name of the data.
        metrics: What was measured, by ``part/name``, such as ``test/top1``.
    """

    recipe: str
    data: str
    metrics: Mapping[str, float] = field(default_factory=dict)


def readme(
    model: nn.Module, repo_id: str, config: Mapping[str, Any], *, licence: str | None, training: Training | None
) -> str:
    """The text of the page, with the metadata that the Hub reads.

    Args:
        model: A model of `zoo.create_model`.
        repo_id: ``owner/name``.
        config: What the model's config.json holds.
        licence: Of the weights, as the Hub writes it, such as ``apache-2.0``; None if it is not known.
        training: How it was trained, if zoo did.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData  # slow to import

    in_timm = config["architecture"] != OPENED_BY_ZOO
    results = [
        EvalResult("image-classification", training.data, training.data, "accuracy", value, metric_name=name)
        for name, value in (training.metrics if training else {}).items()
        if name.endswith("/top1")
    ]
    data = ModelCardData(
        library_name="timm" if in_timm else "zoo",
        license=licence,
        model_name=repo_id.rpartition("/")[2],
        pipeline_tag="image-classification" if model.vision and model.num_classes else None,
        tags=[*PROJECT_TAGS, *(("timm", "transformers") if in_timm else ())],
        datasets=[training.data] if training else None,
        metrics=["accuracy"] if results else None,
        eval_results=results or None,
    )
    parts = [f"# {data.model_name}", *_parts(model, repo_id, in_timm, licence, training)]
    return signed(str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")))


def signed(text: str) -> str:
    """A page with a last line by which `is_own` knows it."""
    text = text.rstrip("\n") + "\n"
    return text + "\n" + SIGNED.format(hashlib.sha256(text.encode()).hexdigest()) + "\n"


def is_own(text: str) -> bool:
    """Whether a page was written by `readme`, and nobody has changed it since.

    Example:
        >>> is_own(signed("# A model")), is_own(signed("# A model").replace("A", "My")), is_own("# A model")
        (True, False, False)
    """
    body, mark, _ = text.replace("\r\n", "\n").rpartition("\n" + SIGNED.partition("{}")[0])
    return bool(mark) and signed(body) == text.replace("\r\n", "\n")


def _parts(model: nn.Module, repo_id: str, in_timm: bool, licence: str | None, training: Training | None) -> list[str]:
    arch = model.pretrained_cfg["architecture"]
    family = family_of(arch)
    about = parse(family.about)
    own = sorted(_own_arguments(model).items())
    changes = "".join(f"\n- `{key}`: `{value}`" for key, value in own)
    told = f"A model of zoo: `{arch}`, of the family {family.name}. {about.summary}".strip()
    parts = [told + (f"\n\nIt differs from that variant in:\n{changes}" if changes else "")]
    parts += ["## How to use", _usage(model, repo_id, in_timm), "## Costs", _costs(model)]
    if training is not None:
        lines = [f"| {name} | {value:.4g} |" for name, value in training.metrics.items()]
        parts += ["## Training", f"Trained by zoo on {training.data}."]
        parts += ["\n".join(["| metric | value |", "|---|---|", *lines])] if lines else []
        parts += [f"The recipe, for `zoo train`:\n\n```yaml\n{training.recipe.strip()}\n```"]
    parts += ["## Licence", f"Of the weights: {licence or 'not stated'}."]
    if cited := list(citations(family.name, about)):
        parts += ["## Citation", "\n".join(["```bibtex", *cited, "```"])]
    return parts


def _own_arguments(model: nn.Module) -> dict[str, Any]:
    """Those arguments that differ from the variant's, as it would be built today."""
    plain = arguments_of(create_model(model.pretrained_cfg["architecture"], device="meta"))
    return {key: value for key, value in arguments_of(model).items() if plain.get(key) != value}


def _usage(model: nn.Module, repo_id: str, in_timm: bool) -> str:
    name = f"hf-hub:{repo_id}"
    lines = ["```python", "import zoo", "", f'model = zoo.create_model("{name}").eval()', "```"]
    if model.vision:
        by = "timm alone" if in_timm else "timm, once zoo is imported"
        extra = [] if in_timm else ["import zoo  # tells timm of it"]
        lines += ["", f"By {by}:", "", "```python", "import timm", *extra, ""]
        lines += [f'model = timm.create_model("{name}", pretrained=True).eval()', "```"]
    if in_timm and model.num_classes:
        lines += ["", "By transformers:", "", "```python", "from transformers import pipeline", ""]
        lines += [f'classify = pipeline("image-classification", model="{repo_id}")', "```"]
    return "\n".join(lines)


def _costs(model: nn.Module) -> str:
    report = count_flops(model)
    figures = {
        "parameters": f"{report.params:,}",
        "active parameters": f"{report.active_params:,}",
        "MACs": f"{report.macs:,}",
        "input": " x ".join(map(str, model.input_size)),
        "outputs": str(model.num_classes),
    }
    head = "Counted by `zoo.count_flops` for one input; a MAC is one multiplication with one addition."
    rows = [f"| {key} | {value} |" for key, value in figures.items()]
    return "\n".join([head, "", "| cost | of this model |", "|---|---|", *rows])
