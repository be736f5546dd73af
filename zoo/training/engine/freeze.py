"""Which parameters of a model are trained, and which are not."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from zoo.checks import shown, unknown


def matching(model: nn.Module, pattern: str, key: str) -> list[str]:
    """The names of parameters that a pattern means: with `*` and `?`, or of a module and so all below it.

    Raises:
        ValueError: It means none; `key` is where the recipe has it.
    """
    names = [name for name, _ in model.named_parameters()]
    found = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
    if not found:
        modules = [
            name for name, module in model.named_modules() if name and next(module.parameters(), None) is not None
        ]
        raise ValueError(unknown(f"{key}: the pattern {shown(pattern)}", pattern, modules, "modules with parameters"))
    return found


def freeze(model: nn.Module, patterns: Sequence[str], *, linear_probe: bool) -> list[nn.Module]:
    """Take parameters out of the training.

    Args:
        model: The model.
        patterns: What is frozen, one after another; one that begins with `!` takes it back.
        linear_probe: Freeze everything but the classifier first.

    Returns:
        The modules none of whose parameters is trained, the outermost alone: they compute as in evaluation, so that
        neither running statistics nor dropout change what they give. Of a linear probe, also those without parameters.

    Raises:
        ValueError: A pattern means no parameter, nothing is left to be trained, or the model has no classifier.
    """
    frozen: set[str] = set()
    probed = _classifier(model) if linear_probe else None
    if probed is not None:
        classifier = {id(parameter) for parameter in probed.parameters()}
        frozen = {name for name, parameter in model.named_parameters() if id(parameter) not in classifier}
    for number, pattern in enumerate(patterns):
        names = matching(model, pattern.removeprefix("!"), f"train.freeze[{number}]")
        frozen = frozen - set(names) if pattern.startswith("!") else frozen | set(names)
    parameters = dict(model.named_parameters())
    if frozen >= parameters.keys():
        raise ValueError(
            "train.freeze leaves no parameter to be trained: take a pattern out, or add one such as '!head.*'"
        )
    for name in frozen:
        parameters[name].requires_grad_(False)
    return list(_outermost(model, probed)) if frozen else []


def _classifier(model: nn.Module) -> nn.Module:
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    if classifier is None or next(classifier.parameters(), None) is None:
        raise ValueError(
            f"train.linear_probe trains the classifier of a model alone, and {type(model).__name__} has none with "
            "parameters: give num_classes, or say with train.freeze what is not trained"
        )
    return classifier


def _outermost(module: nn.Module, probed: nn.Module | None) -> Iterator[nn.Module]:
    for child in module.children():
        parameters = list(child.parameters())
        if child is probed:
            continue
        if (parameters or probed is not None) and not any(parameter.requires_grad for parameter in parameters):
            yield child
        else:
            yield from _outermost(child, probed)
