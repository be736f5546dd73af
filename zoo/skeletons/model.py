"""What every model of zoo has in common, whatever it takes."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from zoo.blocks.base import parameters_without_decay
from zoo.blocks.linear import initialise
from zoo.blocks.mixer import offers, trait
from zoo.checks import check_argument, hints_of, unboxed
from zoo.slots import Slot, options_of, parse_slot
from zoo.slots.table import blocks_of
from zoo.weights.loaded import Loaded


class DecayMarks(nn.Module):
    """A model that marks the parameters of its blocks for an optimizer."""

    def no_weight_decay(self) -> set[str]:
        """Names of all parameters that weight decay must leave alone: biases, norms, scales, gates, positions."""
        return parameters_without_decay(self)


class Model(DecayMarks):
    """A model of the registry. A skeleton derives from this, and declares what builds it as a dataclass.

    All of `Arguments` are keyword arguments of the constructor, beside ``device`` and ``dtype``; a skeleton's arguments
    derive from those of the skeleton below it, so that what several share is said once.

    Attributes:
        Arguments: A frozen dataclass of what builds the model.
        slots: Those of the arguments that are slots, and the kind of block that each names.
        shorthands: Names for single options of a slot, ``{"head_init": "head.init"}``; they may be given as arguments.
        hands_on: Arguments that work through blocks alone, and what has to take them, with wildcards: the ``kind`` of a
            block, or ``kind.option``. To ask for one that no block takes is an error.
        works_with: Arguments that do nothing unless one of some others is true or, as ``argument=name``, has that slot.
        vision: Whether it takes images; then it is a timm model too.
        num_classes: Number of outputs, 0 without a last layer.
        config: Every argument that builds this model again; slots are lists of `zoo.slots.Slot`.
        input_size: Shape of an input, without the batch.
        loaded: What the model was given of weights when it was created, part by part; None without weights.
    """

    Arguments: ClassVar[type]
    slots: ClassVar[Mapping[str, str]] = {}
    shorthands: ClassVar[Mapping[str, str]] = {}
    hands_on: ClassVar[Mapping[str, str]] = {}
    works_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    vision = True
    num_classes: int
    config: dict
    input_size: tuple[int, ...]
    loaded: Loaded | None = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "Arguments" in vars(cls):
            cls.__signature__ = _signature(cls.Arguments)

    def __init__(self, *, device=None, dtype=None, **arguments):
        super().__init__()
        hints, arguments = hints_of(type(self)), {name: unboxed(value) for name, value in arguments.items()}
        for name, value in {**arguments, "device": device, "dtype": dtype}.items():
            check_argument(f"{type(self).__name__}: {name}", name, value, hints)
        arguments = self.Arguments(**expanded(type(self), arguments))
        self.config = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
        self._build(arguments, device=device, dtype=dtype)

    def _build(self, arguments: Any, *, device, dtype) -> None:
        """Create every module, and write into `config` what was settled of the arguments: slots, sizes."""
        raise NotImplementedError

    @classmethod
    def argument_names(cls) -> list[str]:
        """Everything that a model can be given by name, shorthands too."""
        return [*inspect.signature(cls).parameters, *cls.shorthands]

    @classmethod
    @functools.cache  # every creation asks three times
    def argument_hints(cls) -> Mapping[str, Any]:
        """The annotation of each argument by its name, of shorthands too; None for a device and a dtype."""
        hints = hints_of(cls)
        known = {name: hints.get(name) for name in inspect.signature(cls).parameters}
        for name, place in cls.shorthands.items():
            argument, option = place.split(".")
            block = block_at(cls, argument, slot_of(cls, argument, {}))
            known[name] = None if block is None else hints_of(block).get(option)
        return MappingProxyType(known)

    def get_classifier(self) -> nn.Module:
        """What makes the outputs of features: a linear map, a perceptron, a layer; an identity without classes."""
        return self.head

    def facts(self, input_size: tuple[int, ...]) -> dict[str, Any]:
        """What a configuration says of a built model: ``first_conv``, ``classifier`` and ``pool_size``.

        The first two are names of layers with a weight: the convolution that sees the channels of an image, empty where
        there is none, and what makes the logits, where there are any.

        Args:
            input_size: Of the inputs that the configuration is about, without the batch.
        """
        return {"first_conv": (), "classifier": "head", "pool_size": None}

    @property
    def deployed(self) -> bool:
        """Whether branches of the model are merged for inference."""
        return any(trait(m, "deployed") for m in self.modules() if m is not self)

    def reparameterize(self) -> None:
        """Merge parallel branches and batch norms into single convolutions and matrices, in place, for inference.

        In eval mode the outputs stay what they were. A model without such blocks stays as it is. The merged model saves
        and loads like any other; its branches are gone.
        """
        for module in list(self.modules()):
            if module is not self and offers(module, "reparameterize"):
                module.reparameterize()

    def init_weights(self) -> None:
        """Initialise everything anew, as is needed after ``model.to_empty(device=...)`` of a model built on meta."""
        for module in reversed(list(self.modules())):  # owners of others' parameters come after these
            initialise(module)


def _signature(arguments: type) -> inspect.Signature:
    """The signature of a constructor that takes the fields of a dataclass by name, ``device`` and ``dtype``.

    A skeleton's own arguments come before those that it shares with others.
    """
    hints = typing.get_type_hints(arguments, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(arguments)}
    order = dict.fromkeys(name for cls in arguments.__mro__ for name in vars(cls).get("__annotations__", ()))
    keyword, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    parameters = [
        inspect.Parameter(
            field.name,
            keyword,
            default=empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in map(fields.__getitem__, order)
    ]
    place = [inspect.Parameter(name, keyword, default=None) for name in ("device", "dtype")]
    return inspect.Signature([*parameters, *place])


def expanded(model: type[Model], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with each shorthand as an option of its slot.

    A shorthand that the slot's block has no such option for is left out: `zoo.build.effect.check_effect` refuses it
    where a user asked for it, and a configuration that has them all can be read.

    Example:
        >>> from zoo.skeletons.isotropic import Isotropic
        >>> expanded(Isotropic, {"head": "linear", "head_init": "zeros"})
        {'head': Slot(name='linear', options={'init': 'zeros'}, factory=None)}
    """
    arguments = dict(arguments)
    short = {name: arguments.pop(name) for name in model.shorthands if name in arguments}
    for name, value in short.items():
        argument, option = model.shorthands[name].split(".")
        slot = slot_of(model, argument, arguments)
        block = block_at(model, argument, slot)
        if block is not None and option in options_of(block):
            arguments[argument] = Slot(slot.name, {**slot.options, option: value}, slot.factory, argument)
    return arguments


def slot_of(model: type[Model], argument: str, arguments: Mapping[str, Any]) -> Slot:
    """The one slot that an argument is among some arguments, or by default."""
    return single_slot(arguments.get(argument, inspect.signature(model).parameters[argument].default), argument)


def single_slot(value: Any, argument: str) -> Slot:
    """The slot of an argument that has only one, which a list may hold."""
    return parse_slot(value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value, argument)


def block_at(model: type[Model], argument: str, slot: Slot) -> Callable[..., nn.Module] | None:
    """What builds the block of a slot; None for a block that is unknown or left out."""
    return slot.factory if slot.name is None else blocks_of(model.slots[argument]).get(slot.name)


def option_of(model: type[Model], argument: str, slot: Slot, option: str) -> Any:
    """The value of an option of the block that a slot names, or its default; None if it has no such option."""
    block = block_at(model, argument, slot)
    if option in slot.options or block is None or option not in options_of(block):
        return slot.options.get(option)
    return inspect.signature(block).parameters[option].default


def short_value(model: type[Model], name: str, arguments: Mapping[str, Any]) -> Any:
    """What a shorthand stands for among some arguments: an option of a slot."""
    argument, option = model.shorthands[name].split(".")
    return option_of(model, argument, slot_of(model, argument, expanded(model, arguments)), option)


def check_offers(block: nn.Module, method: str, title: str, meaning: str) -> None:
    """Check that a block has a method that a skeleton calls.

    Raises:
        TypeError: It has not.
    """
    if not offers(block, method):
        raise TypeError(f"{title} is a {type(block).__name__} without {method}(…); let that give {meaning}")
