"""Stack: layers from vectors to vectors, one behind the other; the skeleton of models for functions and tables."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from zoo.blocks.base import Aux, mean_losses, merge_aux
from zoo.blocks.kan.bases.base import Basis
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.kernels.symbolic import is_symbol, settled
from zoo.blocks.linear import Linear, is_bare, linear
from zoo.blocks.mixer import offers
from zoo.checks import callee, check_type, unboxed
from zoo.checks.ranges import Channels, Classes, RateBelowOne, Widths
from zoo.skeletons.inputs import check_vectors
from zoo.skeletons.model import Model
from zoo.slots import Slot, SlotLike, SlotsLike, build_act, build_block, resolve_slots
from zoo.slots.table import blocks_of


@dataclass(frozen=True, kw_only=True)
class StackArguments:
    """What a stack of layers is built from.

    Args:
        in_chans: Number of inputs.
        num_classes: Number of outputs; 0 for the last hidden layer's features.
        hidden: Widths between the two.
        layer: What the layers are: a slot for all, or a list with one a layer. The name of a basis of
            `zoo.list_blocks("basis")`, with its options, makes a `KANLinear`; ``select(bases=[…])`` a
            `SelectKANLinear`; ``none`` a linear map, followed by `act` unless it is the last.
        act: Activation slot between linear layers.
        norm: Slot of a norm before every layer but the first.
        bias: Biases of the layers; by default linear layers have one and Kolmogorov-Arnold layers do not.
        drop_rate: Dropout before the last layer.
    """

    in_chans: Channels
    num_classes: Classes
    hidden: Widths
    layer: SlotsLike = "spline"
    act: SlotLike = "silu"
    norm: SlotsLike = "none"
    bias: bool | None = None
    drop_rate: RateBelowOne = 0.0


class Stack(Model):
    """Layers of given widths: Kolmogorov-Arnold layers, linear ones with activations between, or a mixture.

    Its arguments are those of `StackArguments`.

    Shape: ``(*, in_chans) -> (*, num_classes)``.

    Example:
        >>> model = Stack(in_chans=2, hidden=[5], num_classes=1, layer="spline(grid_size=5)")
        >>> import torch
        >>> model(torch.zeros(7, 2)).shape, sum(p.numel() for p in model.parameters())
        (torch.Size([7, 1]), 135)

    Raises:
        ValueError: A width, a slot or an option is none that can be built; the message says which and what can.
    """

    Arguments = StackArguments
    slots = {"layer": "layer", "act": "act", "norm": "norm"}
    vision = False
    works_with = {"act": ("layer=none",)}

    def _build(self, arguments: StackArguments, **place) -> None:
        widths = [arguments.in_chans, *arguments.hidden]
        slots, norms = resolve_slots(arguments.layer, len(widths), "layer"), resolve_slots(arguments.norm, 1, "norm")
        self.config |= {"hidden": list(arguments.hidden), "layer": slots, "norm": norms}
        self.input_size = (arguments.in_chans,)
        self.num_features = self.head_hidden_size = widths[-1]
        body: list[nn.Module] = []
        for i, width in enumerate(widths[1:]):
            body += [self._layer(slots[i], widths[i], width, **place)]
            if slots[i].name == "none":
                body += [build_act(arguments.act, **place)]
            if norms[0].name != "none":
                body += [build_block("norm", norms[0], width, **place)]
        self.body = nn.Sequential(*body)
        self.head_drop = nn.Dropout(arguments.drop_rate) if arguments.drop_rate > 0 else None
        self._set_head(arguments.num_classes, **place)

    def _layer(self, slot: Slot, in_features: int, out_features: int, **dd) -> nn.Module:
        bias = {} if self.config["bias"] is None else {"bias": self.config["bias"]}
        if slot.name == "none":
            return Linear(in_features, out_features, init="torch", **bias, **dd)
        if slot.name in blocks_of("layer") or (slot.name is None and not _is_basis(slot.factory)):
            return build_block("layer", slot, in_features, out_features, **bias, **dd)
        return KANLinear(in_features, out_features, slot, **bias, **dd)

    def _set_head(self, num_classes: int, device=None, dtype=None) -> None:
        check_type("num_classes", num_classes, Classes)
        self.num_classes = self.config["num_classes"] = num_classes
        slot = self.config["layer"][-1]
        dd = {"device": device, "dtype": dtype}
        self.head = self._layer(slot, self.num_features, num_classes, **dd) if num_classes else nn.Identity()

    def chain(self) -> list[nn.Module]:
        """The modules that are applied one after the other, for tools that follow a signal through them."""
        return [*self.body, *([] if self.head_drop is None else [self.head_drop]), self.head]

    def reset_classifier(self, num_classes: int) -> None:
        """Exchange the last layer for a newly initialised one, or for none."""
        num_classes = unboxed(num_classes)
        weight = next(self.parameters())
        self._set_head(num_classes, weight.device, weight.dtype)
        self.head.train(self.training)

    def forward_features(self, x: Tensor) -> Tensor:
        """What the last layer sees: ``(*, in_chans) -> (*, num_features)``.

        Raises:
            TypeError: The input is no tensor, or not of the numbers that the model computes with.
            ValueError: The last dimension of the input is not `in_chans`.
        """
        body = self.body
        if not is_symbol(x):
            check_vectors(self, body, x, self.input_size[0])
        if not is_bare(body, nn.Sequential):
            return body(x)
        for module in body:
            x = linear(x, module)
        return x

    def forward(self, x: Tensor, return_aux: bool = False) -> Tensor | tuple[Tensor, Aux]:
        """The outputs, and on request what layers report: those that select ``loss/selection`` and ``stat/selection``.

        Raises:
            TypeError, ValueError: As `forward_features`.
        """
        return_aux = settled(return_aux, False)
        x = self.forward_features(x)
        if self.head_drop is not None:
            x = self.head_drop(x)
        x = linear(x, self.head)
        if not return_aux:
            return x
        return x, mean_losses(merge_aux([layer.report() for layer in self.chain() if offers(layer, "report")]))


def _is_basis(factory: Callable[..., nn.Module]) -> bool:
    cls = callee(factory)
    return isinstance(cls, type) and issubclass(cls, Basis)
