"""Parameters and multiply-accumulates of a model, by module and by operator, without running it."""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from zoo.blocks.kernels import private
from zoo.blocks.kernels.cost import while_counting
from zoo.blocks.mixer import Part, trait
from zoo.checks import check_type, printable, shown, unboxed
from zoo.costs.report import FlopReport
from zoo.costs.rules import NO_ARITHMETIC, RULES, Rule
from zoo.costs.twin import inner, twin_of
from zoo.skeletons.image import ImageModel
from zoo.storage.locks import Turns
from zoo.weights.pretrained import SIZE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing fvcore compiles two loss functions by the deprecated torch.jit.script
    from fvcore.nn.jit_analysis import JitModelAnalysis

# One thread traces at a time: fvcore changes the filters of warnings, which all share, and two at once would put back
# each other's. Forward passes need not wait.
_TRACING = Turns()

Inputs = Tensor | Sequence[Tensor] | None


def count_flops(
    model: nn.Module, input_size: Sequence[int] | None = None, *, inputs: Inputs = None, batch_size: int | None = None
) -> FlopReport:
    """Count parameters and multiply-accumulates (MACs) of a model in eval mode. FLOPs are twice the MACs.

    One multiplication with the addition that follows is one MAC. Counted are linear maps, matrix products, einsum,
    convolutions, attention (both products, fused or not; a mask or causality takes nothing off), grouped products,
    Fourier transforms (2.5 n log2 n for n complex points, half of that for real ones; the customary 5 n log2 n FLOPs),
    learnt functions of single numbers (splines, rationals and the other bases of `zoo.blocks.kan`: what their
    docstrings say) and what `zoo.costs.register_flop_rule` adds. Biases, norms, activations, softmax, pooling and
    element-wise products have no MACs; the report lists them by name, and so it does every operator that zoo does not
    know. Left out are what only moves or views data, arithmetic on single numbers such as sizes, and work that no
    output depends on.

    The model is neither run nor changed: a copy of its structure, with its hooks but without its weights, is traced on
    the meta device. Only if that is not possible is the copy, which then shares the weights, run on the model's device.

    A module of which one token uses only a part, such as the experts of a mixture, says so in ``active_fraction``, the
    share of the parameters in it that one token uses; it is 1 if absent.

    What stands around modules is looked through wherever it stands, and the names are those without it: `torch.compile`
    (also ``module.compile()`` and compiled methods), data parallelism, and averages of weights.

    Args:
        model: A module on any device, of any dtype, in any mode.
        input_size: Shape of one sample, ``(C, H, W)`` for an image; by default ``model.input_size``, or else
            ``model.pretrained_cfg["input_size"]``.
        inputs: The tensors that the model is called with, instead of `input_size`.
        batch_size: Number of samples traced, 1 by default; with `inputs` the number of samples in these, by default the
            size of the first dimension of the first. All totals are divided by it and rounded.

    Example:
        >>> count_flops(nn.Linear(8, 4), (8,)).macs
        32

    Raises:
        ValueError: The input size is not known, or given twice, there is no sample, an active fraction is not in
            (0, 1], or the model cannot be traced on this input.
        TypeError: The model is no module, a size is no sequence of whole numbers, or an input no tensor.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"count_flops takes a module, such as one of zoo.create_model, not {shown(model)}, a {type(model).__name__}"
        )
    model, batch_size = inner(model), unboxed(batch_size)
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise ValueError(f"batch_size is {shown(batch_size)}; it must be a number of samples, 1 or more")
    if inputs is None:
        shape = (batch_size or 1, *_input_size(model, input_size))
        floats = (p.dtype for p in model.parameters() if p.is_floating_point())
        inputs = (_without_values(shape, next(floats, None)),)
    elif input_size is not None:
        raise ValueError("count_flops takes input_size or inputs, not both")
    inputs = _tensors(inputs)
    batch_size = batch_size or (inputs[0].shape[0] if inputs[0].dim() else 1)
    if not batch_size:
        raise ValueError("inputs hold a batch of no samples, and costs are those of one; give at least one")

    analysis, model = _analyse(model, inputs)
    by_module = {name: round(macs / batch_size) for name, macs in analysis.by_module().items()}
    uncounted: dict[str, int] = {}
    for name, count in analysis.unsupported_ops().items():
        uncounted[_short_name(name)] = uncounted.get(_short_name(name), 0) + count
    params = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_modules()}
    return FlopReport(
        params=params[""],
        active_params=_active_params(model),
        macs=by_module[""],
        by_module=by_module,
        params_by_module=params,
        by_operator={name: round(macs / batch_size) for name, macs in analysis.by_operator().items() if macs},
        uncounted=uncounted,
        input_shapes=tuple(tuple(x.shape) for x in inputs),
        batch_size=batch_size,
    )


def _input_size(model: nn.Module, input_size: Sequence[int] | None) -> tuple[int, ...]:
    """The size of one sample: what the caller asks for, or else what the model says of itself."""
    config = trait(model, "pretrained_cfg", Part) or {}
    if isinstance(input_size, Tensor):
        raise TypeError(f"input_size is a tensor of shape {tuple(input_size.shape)}; give a tensor as inputs=")
    input_size = input_size.tolist() if isinstance(input_size, np.ndarray) else unboxed(input_size)
    if input_size is not None:
        check_type("input_size", input_size, SIZE)
    size = next((s for s in (input_size, trait(model, "input_size", Part), config.get("input_size")) if s), None)
    if size is None:
        raise ValueError(f"{type(model).__name__} does not tell its input size; give input_size=(C, H, W) or inputs=")
    if input_size and isinstance(model, ImageModel) and (len(input_size) != 3 or input_size[0] != model.in_chans):
        raise ValueError(
            f"input_size is {shown(input_size)}; it must be that of one image, ({model.in_chans}, height, width), and "
            "the number of images is batch_size="
        )
    return tuple(size)


def _without_values(shape: tuple[int, ...], dtype: torch.dtype | None) -> Tensor:
    try:
        return torch.empty(shape, dtype=dtype, device="meta")
    except RuntimeError:  # what torch says of more bytes than it counts
        raise ValueError(f"an input of shape {shown(shape)} is larger than any memory; give smaller sizes") from None


def _tensors(inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(inputs, Sequence) or not all(isinstance(x, Tensor) for x in inputs):
        raise TypeError(f"inputs is {shown(inputs)}; it must be a tensor, or a list of those that the model takes")
    if not inputs:
        raise ValueError("inputs is empty; give the tensors that the model is called with")
    return tuple(inputs)


def _active_params(model: nn.Module) -> int:
    fractions: dict[str, float] = {}
    active: dict[nn.Parameter, float] = {}
    for name, module in model.named_modules():  # outer modules first
        own = trait(module, "active_fraction", Part)
        if not 0 < own <= 1:
            where = name or type(module).__name__
            raise ValueError(f"active_fraction of module {where!r} is {own}; it must be in (0, 1]")
        fractions[name] = own * (fractions[name.rpartition(".")[0]] if name else 1.0)
        for parameter in module.parameters(recurse=False):
            active[parameter] = max(fractions[name], active.get(parameter, 0.0))
    return round(sum(p.numel() * fraction for p, fraction in active.items()))


def _short_name(name: str) -> str:
    """torch's own operators without namespace, and `relu_` as `relu`; others as they are."""
    return name[6:].strip("_") if name.startswith("aten::") else name


class _MacAnalysis(JitModelAnalysis):
    """fvcore's analysis of a traced model, with zoo's rules and zoo's list of what does no arithmetic."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]):
        super().__init__(model, inputs)
        self.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        self.set_op_handle(**{name: partial(_counted, name, rule) for name, rule in RULES.items()})

    def _should_ignore_node(self, node) -> bool:
        # fvcore's own list has relu, clamp, max and others that compute.
        if node.kind() in NO_ARITHMETIC:
            return node.kind() != "prim::Constant" or _is_scalar(next(node.outputs()))
        return node.kind().startswith("aten::") and all(map(_is_scalar, (*node.inputs(), *node.outputs())))


def _counted(name: str, rule: Rule, inputs: list, outputs: list) -> Counter:
    return Counter({_short_name(name): rule([_value(v) for v in inputs], [_value(v) for v in outputs])})


def _value(value):
    """A value of the traced graph as a rule sees it (see `zoo.costs.rules`)."""
    if value.isCompleteTensor():
        return torch.Size(value.type().sizes())
    if value.node().kind() in ("prim::ListConstruct", "prim::TupleConstruct"):
        return [_value(v) for v in value.node().inputs()]
    return value.toIValue()


def _is_scalar(value) -> bool:
    kind = value.type().kind()
    return value.type().sizes() == [] if kind == "TensorType" else kind != "ListType"


def _analyse(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[_MacAnalysis, nn.Module]:
    """The analysis, and the copy of the model that it is of."""
    home = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    by_value = any(trait(module, "cost_by_value", Part) for module in model.modules())
    for device in [home] if by_value else dict.fromkeys((torch.device("meta"), home)):
        try:
            return _trace(model, inputs, device)
        except Exception as failure:
            error = failure
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    reason = re.sub(r"\btensor\((\d+)\)", r"\1", str(error))  # the tracer's sizes are tensors
    raise ValueError(
        f"{type(model).__name__} cannot be traced on input of shape {printable(shapes)} "
        f"({type(error).__name__}: {printable(reason)}); "
        "give input_size= or inputs= that its forward takes, and leave out TorchScript, reentrant checkpointing and "
        "functions outside of modules that torch.compile has compiled"
    ) from error


def _trace(model: nn.Module, inputs: tuple[Tensor, ...], device: torch.device) -> tuple[_MacAnalysis, nn.Module]:
    on_meta = device.type == "meta"
    # Not in inference mode: a convolution is made up of other calls there, of which the tracer records none.
    with torch.inference_mode(False), torch.no_grad(), while_counting(), _TRACING.mine():
        inputs = tuple(torch.zeros_like(x, device=device) if x.is_meta else x.to(device, copy=True) for x in inputs)
        twin = twin_of(model, on_meta)
        analysis = _MacAnalysis(twin, inputs)
        with private.MetaConvolutions() if on_meta and private.MetaConvolutions else nullcontext():
            analysis.total()
    return analysis, twin
