"""Torch's private names that the package needs: they stand here and nowhere else, each with its reason.

Torch may rename them at any release. Each is looked up once, by `_of_torch`; where it is gone, public means give the
same answers, more slowly (one name has no such means, and an error says so: `exclude_from_ddp`). The test of this file
takes each name away to show that. Of timm there are none.

Not here, since torch documents them as the way to extend a module: `Module._apply` and `_load_from_state_dict`, which
are overridden. Nor the dictionaries in which a module keeps what it registers (`_parameters`, `_buffers`, `_modules`,
`_forward_hooks`, `_forward_pre_hooks`): every pickled module holds them by these names, which therefore stay.
Strings that name operators in a recorded graph (``aten::_convolution``) or modules in saved keys (``_orig_mod.``) are
data and call nothing.
"""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

NAMES: dict[str, None] = {}  # all that this file looks up, in its order


def _of_torch(name: str, otherwise: Any = None) -> Any:
    """Torch's private object of a name, or what stands in for it where this torch has none."""
    NAMES[name] = None
    try:
        return pkgutil.resolve_name(name)
    except (AttributeError, ImportError):
        return otherwise


# --- Who may be watching: asked by `zoo.blocks.kernels.guard` ---------------------------------------------------------


class _Probe(torch.autograd.Function):
    """Has no rule for `torch.func`, which torch therefore refuses to run it under."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)


def _refused_by_functorch() -> bool:
    try:
        _Probe.apply(torch.empty(0, device="cpu"))
    except RuntimeError:
        return True
    return False


def _dual_numbers_exist() -> bool:
    zero = torch.zeros((), device="cpu")
    try:
        forward_ad.make_dual(zero, zero)
    except RuntimeError as error:
        return "no level exists" not in str(error)
    return True


def _has_no_storage(tensor: Tensor) -> bool:
    try:
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return True
    return False


# A transform of `torch.func` (vmap, grad, jvp) is going on: a fast path would drop a tangent, or mix up samples.
functorch_active: Callable[[], bool] = _of_torch("torch._C._are_functorch_transforms_active", _refused_by_functorch)

# The level of forward-mode differentiation; -1 where there is none. It is a global number that changes, so that it is
# read where it lies.
_LEVEL_IS_KNOWN = _of_torch("torch.autograd.forward_ad._current_level") is not None

# A tensor that `torch.autograd.grad(is_grads_batched=True)` makes: a Tensor by its type, and several by value.
is_batched_gradient: Callable[[Tensor], bool] = _of_torch(
    "torch._C._functorch.is_legacy_batchedtensor", _has_no_storage
)

# How many modes see every operator (counters of FLOPs, selective checkpointing). The public class of modes tells of one
# of its own kind alone. Where nobody can tell, one may be there, and every fast path stays closed.
dispatch_modes: Callable[[], int] = _of_torch("torch._C._len_torch_dispatch_stack", lambda: 1)


def transformed() -> bool:
    """Whether tensors may stand for several, or carry a derivative: `torch.func`, forward-mode differentiation."""
    return functorch_active() or (forward_ad._current_level >= 0 if _LEVEL_IS_KNOWN else _dual_numbers_exist())


# How often torch has seen a tensor written, for `zoo.blocks.kernels.reading`: on a GPU to compare values would be to
# wait for it. Without the count nothing is remembered there, and values are read each time.
_VERSION = _of_torch("torch.Tensor._version")


def version(tensor: Tensor) -> int | None:
    """How often torch has seen a tensor written; None for one of inference mode, of which it does not count that."""
    return None if _VERSION is None or tensor.is_inference() else _VERSION.__get__(tensor)


# --- Kernels of torch's own that have no public call ------------------------------------------------------------------

# oneDNN's product with bias and activation inside, for `zoo.blocks.kernels.onednn`; without it, products are torch's.
linear_pointwise = _of_torch("torch.ops.mkldnn._linear_pointwise")

# The grouped product on a GPU before torch 2.10 made it public; without it, `zoo.blocks.kernels.grouped` goes from
# expert to expert there too.
grouped_mm = getattr(F, "grouped_mm", None) or _of_torch("torch._grouped_mm")


def _softmax_backward(grad: Tensor, weights: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    grad, weights = grad.float(), weights.float()
    return ((grad - (grad * weights).sum(dim, keepdim=True)) * weights).to(dtype)


# The gradient of a softmax from its result, where the result is all that was kept (`zoo.blocks.kernels.windows`).
softmax_backward: Callable[[Tensor, Tensor, int, torch.dtype], Tensor] = _of_torch(
    "torch.ops.aten._softmax_backward_data", _softmax_backward
)

# --- Classes and structures -------------------------------------------------------------------------------------------

# What all batch norms derive from, those of other packages too: their statistics must not count a batch twice
# (`zoo.skeletons.checkpointing`).
BatchNorm: Any = _of_torch(
    "torch.nn.modules.batchnorm._BatchNorm", (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
)

# What batch and instance norms derive from: their parameters are not decayed (`zoo.blocks.base`).
ChannelNorm: Any = _of_torch(
    "torch.nn.modules.batchnorm._NormBase",
    (
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.SyncBatchNorm,
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
    ),
)


def _flatten(tree: Any) -> tuple[list, Any]:
    if isinstance(tree, (dict, list, tuple)):
        leaves, layouts = [], []
        for part in tree.values() if isinstance(tree, dict) else tree:
            inner, layout = _flatten(part)
            leaves += inner
            layouts.append((layout, len(inner)))
        return leaves, (tree, layouts)
    return [tree], None


def _unflatten(leaves: list, layout: Any) -> Any:
    if layout is None:
        return leaves[0]
    (tree, layouts), parts, start = layout, [], 0
    for inner, count in layouts:
        parts.append(_unflatten(leaves[start : start + count], inner))
        start += count
    if isinstance(tree, dict):
        return dict(zip(tree, parts, strict=True))
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


# Nested mappings, lists and tuples as a flat list, and back: the reentrant kind of checkpointing knows only flat ones
# (`zoo.skeletons.checkpointing`). Torch's also knows classes that were registered with it.
_pytree = _of_torch("torch.utils._pytree", SimpleNamespace(tree_flatten=_flatten, tree_unflatten=_unflatten))
tree_flatten: Callable[[Any], tuple[list, Any]] = _pytree.tree_flatten
tree_unflatten: Callable[[list, Any], Any] = _pytree.tree_unflatten

# --- What `zoo.count_flops` needs to see operators, and to trace convolutions without values --------------------------

# A mode that sees every operator. Without it torch.jit counts alone, and `zoo.count_costs` says that it cannot.
DispatchMode = _of_torch("torch.utils._python_dispatch.TorchDispatchMode")
# The operator that the tracer records for a convolution, on every device but meta.
_CONVOLUTION = _of_torch("torch.ops.aten._convolution")
# How to let the tracer see what a mode calls, which is hidden from it: its place among the keys of dispatch that are
# on and off in this thread.
_parse_key = _of_torch("torch._C._parse_dispatch_key")
_included = _of_torch("torch._C._dispatch_tls_local_include_set")
_excluded = _of_torch("torch._C._dispatch_tls_local_exclude_set")
_forced = _of_torch("torch._C._ForceDispatchKeyGuard")

if None in (DispatchMode, _CONVOLUTION, _parse_key, _included, _excluded, _forced):
    MetaConvolutions = None  # costs are then counted on the model's own device, of the same operators
else:
    _TRACER = _parse_key("Tracer")

    class MetaConvolutions(DispatchMode):
        """Lets the tracer of torch.jit see convolutions on the meta device.

        It records not `convolution` but the `_convolution` that other devices call inside; meta calls nothing inside,
        and fails over the traced sizes. So `_convolution` is called, and recorded, here, and gets its shape from
        `convolution`.
        """

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            convolution = torch.ops.aten.convolution.default
            if func is convolution:
                with _forced(_included(), _excluded().remove(_TRACER)), self:
                    return _CONVOLUTION.default(*args, False, False, True, True)
            if func is _CONVOLUTION.default:
                return convolution(*args[:9])
            return func(*args, **(kwargs or {}))


SCHEMA = "_schema"  # where an operator that a dispatch mode sees keeps the names and defaults of its arguments


def in_order(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments of a call in the order of the operator's schema, with its defaults; as they came without one."""
    schema = getattr(operator, SCHEMA, None)
    if schema is None:
        return [*args, *kwargs.values()]
    rest = schema.arguments[len(args) :]
    default = lambda a: a.default_value if a.has_default_value() else None
    return [*args, *(kwargs[a.name] if a.name in kwargs else default(a) for a in rest)]


# --- What `zoo.bench` needs to compile ahead of time ------------------------------------------------------------------

# Documented as AOTInductor's way, under a private module; that way is left out without them.
aoti_compile = _of_torch("torch._inductor.aoti_compile_and_package")
aoti_load = _of_torch("torch._inductor.aoti_load_package")
# Whether what is compiled meanwhile may take the weights for constants. As an option of one compilation it would not
# reach the reader of the program, which hands weights over as inputs: then nothing is frozen, and nobody says so.
_patch = _of_torch("torch._inductor.config.patch")
freezing: Callable[[], AbstractContextManager] | None = None if _patch is None else lambda: _patch(freezing=True)

# --- What stands around modules ---------------------------------------------------------------------------------------

COMPILED_MODULE = "_orig_mod"  # where torch.compile's wrapper, whose class has no public name, keeps its module
COMPILER = "torch._dynamo"  # the package whose functions wrap compiled ones

_ignore = _of_torch("torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model")


def exclude_from_ddp() -> Callable[[nn.Module, list[str]], None]:
    """The function that tells DDP which tensors of a model to leave alone: experts that each process has of its own.

    Raises:
        RuntimeError: This torch has none.
    """
    if _ignore is None:
        raise RuntimeError(
            f"torch {torch.__version__} has no call that keeps DDP away from parameters, which experts split over "
            "processes need; use another version of torch, or the same model without zoo.expert_parallel"
        )
    return _ignore
