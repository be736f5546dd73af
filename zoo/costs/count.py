"""Parameters and multiply-accumulates of a model, by module and by operator, without running it."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from zoo.blocks.kernels.cost import while_counting
from zoo.blocks.mixer import Part, trait
from zoo.checks import check_type, printable, shown
from zoo.costs.counts import Counts
from zoo.costs.dispatch import Run, count, run
from zoo.costs.inputs import Call, Inputs, call_of
from zoo.costs.jit import trace
from zoo.costs.report import CostReport, FlopReport
from zoo.costs.twin import inner, twin_of
from zoo.costs.work import Work
from zoo.storage.locks import Turns

# One thread follows a model at a time: fvcore changes the filters of warnings, which all share, and two at once would
# put back each other's. Forward passes need not wait.
_FOLLOWING = Turns()

META = torch.device("meta")
ENGINES: Mapping[str, Callable[[nn.Module, Call], Counts]] = {"jit": trace, "dispatch": count}
Engine = Literal[tuple(ENGINES)] | None
STEP = partial(run, backward=True)
HIDDEN = {"lstm", "gru", "rnn_tanh", "rnn_relu", "bilinear", "cdist"}  # products that torch.jit sees in one piece


def count_flops(
    model: nn.Module,
    input_size: Sequence[int] | None = None,
    *,
    inputs: Inputs = None,
    batch_size: int | None = None,
    engine: Engine = None,
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

    The model is neither run nor changed: a copy of its structure, with its hooks but without its weights, is followed
    on the meta device. Only if that is not possible is the copy, which then shares the weights, run on the model's
    device. For what backward passes and memory cost see `count_costs`.

    A module of which one token uses only a part, such as the experts of a mixture, says so in ``active_fraction``, the
    share of the parameters in it that one token uses; it is 1 if absent.

    What stands around modules is looked through wherever it stands, and the names are those without it: `torch.compile`
    (also ``module.compile()`` and compiled methods), data parallelism, and averages of weights.

    Args:
        model: A module on any device, of any dtype, in any mode.
        input_size: Shape of one sample, ``(C, H, W)`` for an image; by default ``model.input_size``, or else
            ``model.pretrained_cfg["input_size"]``.
        inputs: What the model is called with, instead of `input_size`: a tensor, several in a list, or a mapping of its
            arguments by name. They may be on meta; where values matter, zeros stand in then.
        batch_size: Number of samples traced, 1 by default; with `inputs` the number of samples in these, by default the
            size of the first dimension of the first. All totals are divided by it and rounded.
        engine: ``jit`` traces by fvcore, ``dispatch`` watches each operator as it runs, which counts the same and also
            work that no output depends on. By default the first, and the other where that cannot be.

    Example:
        >>> count_flops(nn.Linear(8, 4), (8,)).macs
        32

    Raises:
        ValueError: The input size is not known, or given twice, there is no sample, an active fraction is not in
            (0, 1], or the model cannot be followed on this input.
        TypeError: The model is no module, a size is no sequence of whole numbers, or an input no tensor.
    """
    model, call = _asked(model, "count_flops", input_size, inputs, batch_size)
    check_type("engine", engine, Engine)
    counts, twin = _first_that_works(model, call, engine)
    return FlopReport(**_fields(counts, twin, call))


def count_costs(
    model: nn.Module,
    input_size: Sequence[int] | None = None,
    *,
    inputs: Inputs = None,
    batch_size: int | None = None,
    training: bool = True,
) -> CostReport:
    """Count all that a model costs: MACs forward and backward, other arithmetic, memory traffic, kept activations.

    What `count_flops` says, and more, from running a copy of the model on meta under torch's dispatch mode, once in
    eval mode without gradients and once in training mode with its backward pass:

    - Backward: what autograd runs for the parameters that are trainable. Attention is taken as a fused kernel does it,
      which computes the scores a second time: five products for two forward.
    - Activations: the bytes that the forward pass in training keeps for the backward pass, each piece of memory once,
      without parameters, buffers and inputs. Of activation checkpointing nothing is taken off: it is left out.
    - Traffic: the bytes that each operator of the forward pass in eval mode reads and writes, as if it ran alone. What
      a compiler fuses moves less. Weights are read once a batch, so that the traffic of a sample falls with the batch.
    - Other arithmetic: see `zoo.costs.elementwise`.

    Args:
        model, input_size, inputs: As for `count_flops`.
        batch_size: Likewise. A model that cannot be trained on one sample, as batch norms of single positions cannot,
            is trained on two where neither this nor `inputs` is given. All figures are those of one sample.
        training: Whether to run the second pass; without it there is neither backward nor activations.

    Example:
        >>> report = count_costs(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)), (8,))
        >>> report.macs, report.backward_macs, report.activation_bytes
        (192, 256, 128)

    Raises:
        ValueError: As `count_flops`; or the model cannot be run in training mode on this input.
        TypeError: As `count_flops`.
    """
    model, call = _asked(model, "count_costs", input_size, inputs, batch_size)
    check_type("training", training, bool)
    inference, twin = _attempts(model, call, [run])
    names = [name for name, _ in twin.named_modules()]
    back: dict[str, dict] = dict(backward={}, backward_by_module={}, activations_by_module={})
    unknown = inference.forward.unknown
    if training:
        ours = inputs is None and batch_size is None  # norms may need two samples
        trained, samples = _trained(model, [call, *([call_of(model, input_size, None, 2)] if ours else [])])
        unknown = unknown + trained.forward.unknown + trained.backward.unknown
        kept = trained.kept_by_module(names)
        back = dict(
            backward=_each(trained.backward.by_operator(), samples),
            backward_by_module=_each(trained.backward.by_module(names), samples),
            activations_by_module={name: round(size / samples) for name, size in kept.items()},
        )
    return CostReport(
        **_fields(inference.forward.counts(names), twin, call),
        **back,
        unknown=dict(unknown),
        trainable_params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        forward=_each(inference.forward.by_operator(), call.samples),
        forward_by_module=_each(inference.forward.by_module(names), call.samples),
    )


def _trained(model: nn.Module, calls: Sequence[Call]) -> tuple[Run, int]:
    """A training step with the first of some calls that it takes, and of how many samples that is."""
    *first, last = calls
    for call in first:
        try:
            return _attempts(model, call, [STEP], training=True)[0], call.samples
        except ValueError:
            continue
    return _attempts(model, last, [STEP], training=True)[0], last.samples


def _asked(model: nn.Module, function: str, input_size, inputs: Inputs, batch_size) -> tuple[nn.Module, Call]:
    """The model without what stands around it, and what it is called with."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{function} takes a module, such as one of zoo.create_model, not {shown(model)}, a {type(model).__name__}"
        )
    model = inner(model)
    return model, call_of(model, input_size, inputs, batch_size)


def _fields(counts: Counts, twin: nn.Module, call: Call) -> dict[str, Any]:
    """What every report says, of a copy of the model: parameters, and the counts of one sample."""
    params = {name: sum(p.numel() for p in module.parameters()) for name, module in twin.named_modules()}
    each = lambda counter: {name: round(macs / call.samples) for name, macs in counter.items()}
    return dict(
        params=params[""],
        active_params=_active_params(twin),
        params_by_module=params,
        macs=each(counts.by_module)[""],
        by_module=each(counts.by_module),
        by_operator=each(counts.by_operator),
        uncounted=dict(counts.uncounted),
        input_shapes=call.shapes,
        batch_size=call.samples,
    )


def _each(work: Mapping[str, Work], samples: int) -> dict[str, Work]:
    """That of one sample."""
    return {name: of_all / samples for name, of_all in work.items()}


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


# --- Engines ----------------------------------------------------------------------------------------------------------


def _first_that_works(model: nn.Module, call: Call, engine: Engine) -> tuple[Counts, nn.Module]:
    """What a forward pass costs by an engine, and the copy of the model that it followed."""
    if engine is not None:
        return _attempts(model, call, [ENGINES[engine]])
    counts, twin = _attempts(model, call, [*ENGINES.values()])
    if HIDDEN & counts.uncounted.keys():
        return _attempts(model, call, [count])
    return counts, twin


def _attempts(model: nn.Module, call: Call, ways: Sequence[Callable], training: bool = False) -> tuple[Any, nn.Module]:
    """The first of several ways to follow a model that succeeds: on meta, and where none does, on its own device."""
    home = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    by_value = any(trait(module, "cost_by_value", Part) for module in model.modules())
    failure = None
    for device in [home] if by_value else dict.fromkeys((META, home)):
        for way in ways:
            # Not in inference mode: a convolution is made up of other calls there, of which nothing is seen.
            with torch.inference_mode(False), while_counting(), _FOLLOWING.mine():
                try:
                    twin = twin_of(model, device == META, training)
                    return way(twin, call.on(device)), twin
                except Exception as error:
                    failure = failure or error
    reason = re.sub(r"\btensor\((\d+)\)", r"\1", str(failure))  # the tracer's sizes are tensors
    remedy = "give input_size= or inputs= that its forward takes"
    of_sizes = re.search(r"\b(dims?|dimensions?|shapes?|sizes?)\b", reason)
    if not of_sizes and not isinstance(failure, (TypeError, ValueError)):
        remedy += ", and leave out TorchScript, reentrant checkpointing and functions outside of modules that "
        remedy += "torch.compile has compiled"
    shapes = ", ".join(map(str, call.shapes)) + (f" by the names {', '.join(call.keywords)}" if call.keywords else "")
    raise ValueError(
        f"{type(model).__name__} cannot be traced on input of shape {printable(shapes)} ({type(failure).__name__}: "
        f"{printable(reason)}); {remedy}"
    ) from failure
