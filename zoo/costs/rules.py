"""The multiply-accumulates (MACs) of one operator each, from the shapes that go in and come out.

A rule is ``fn(inputs, outputs) -> MACs``. The two lists hold the operator's arguments and results in the order of its
schema: a tensor as its ``torch.Size``, a constant as its Python value, a list as a list of these, and None for None and
for what is not known before the model runs.
"""

import math
from collections.abc import Callable, Sequence

from torch import Size

Rule = Callable[[list, list], int]
RULES: dict[str, Rule] = {}


def register_flop_rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator that makes `count_flops` use a function for the MACs of one or more operators.

    Args:
        names: Operators with their namespace: ``"aten::linear"``, ``"mylib::op"``, or ``"prim::PythonOp.MyFunction"``
            for a `torch.autograd.Function`. A report lists under ``uncounted`` what has no rule, under that name.

    Example:
        >>> @register_flop_rule("mylib::rational")
        ... def rational(inputs, outputs):
        ...     return 9 * outputs[0].numel()

    Raises:
        ValueError: A name has no namespace, or another function is the rule for it.
    """

    def add(rule: Rule) -> Rule:
        for name in names:
            if "::" not in name:
                raise ValueError(f"operator {name!r} needs its namespace, as in 'aten::{name}' or 'mylib::{name}'")
            known = RULES.setdefault(name, rule)
            if (known.__module__, known.__qualname__) != (rule.__module__, rule.__qualname__):
                raise ValueError(f"operator {name!r} has a rule already: {known.__module__}.{known.__qualname__}")
            RULES[name] = rule
        return rule

    return add


_MOVEMENT = """
    Int Float Bool ScalarImplicit size numel dim
    arange linspace eye empty empty_like empty_strided new_empty zeros zeros_like new_zeros ones ones_like new_ones
    full full_like new_full fill_ zero_ scalar_tensor tril triu tril_indices triu_indices meshgrid
    alias clone contiguous copy_ detach detach_ lift_fresh to type_as complex real imag
    view_as_real view_as_complex
    view view_as reshape reshape_as flatten unflatten ravel squeeze squeeze_ unsqueeze unsqueeze_ as_strided
    transpose transpose_ t t_ numpy_T mT permute movedim moveaxis swapaxes swapdims
    expand expand_as broadcast_to broadcast_tensors repeat repeat_interleave tile
    select slice narrow diagonal diag_embed unfold im2col unbind chunk unsafe_chunk split
    split_with_sizes unsafe_split tensor_split
    cat stack hstack vstack dstack column_stack
    roll flip rot90 pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d
    pixel_shuffle pixel_unshuffle channel_shuffle
    embedding gather index index_select take take_along_dim masked_select
    scatter scatter_ select_scatter slice_scatter index_copy index_copy_ index_fill index_fill_
    masked_fill masked_fill_ masked_scatter masked_scatter_ where
    dropout dropout_ feature_dropout alpha_dropout
    _unsafe_view _reshape_alias _conj _neg_view resolve_conj resolve_neg lift _to_copy slice_backward select_backward
    unfold_backward unsafe_chunk narrow_copy view_copy permute_copy clone_ set_ resize_ resize_as_ new_empty_strided
    empty_permuted promote_types item _local_scalar_dense is_nonzero equal diagonal_scatter as_strided_scatter
    slice_copy select_copy _unsafe_index _unsafe_masked_index take_ put_ index_copy_ embedding_renorm_ im2col_backward
    constant_pad_nd_ reflection_pad2d_backward replication_pad2d_backward upsample_nearest1d upsample_nearest2d
    upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
"""  # the dropouts do nothing in eval mode, in which a model is counted

# Views, copies, casts, constants and questions about shapes. Nothing that adds, multiplies or compares belongs here:
# an operator that is neither here nor among the rules shows up in the report.
NO_ARITHMETIC = frozenset(
    [f"aten::{name}" for name in _MOVEMENT.split()]
    + [
        "prim::Constant",
        "prim::ListConstruct",
        "prim::ListUnpack",
        "prim::TupleConstruct",
        "prim::TupleUnpack",
        "prim::NumToTensor",
        "prim::device",
        "prim::dtype",
    ]
)


@register_flop_rule("aten::linear")
def _linear(inputs: list, outputs: list) -> int:
    x, weight = inputs[:2]
    return x.numel() * weight[:-1].numel()


@register_flop_rule("aten::matmul", "aten::mm", "aten::bmm", "aten::mv", "aten::dot", "aten::vdot", "aten::inner")
def _matmul(inputs: list, outputs: list) -> int:
    return outputs[0].numel() * inputs[0][-1]


@register_flop_rule(
    *("aten::addmm", "aten::addmm_", "aten::baddbmm", "aten::baddbmm_", "aten::addmv", "aten::addmv_"),
    "aten::_addmm_activation",
)
def _add_matmul(inputs: list, outputs: list) -> int:
    return _matmul(inputs[1:], outputs)


@register_flop_rule("aten::addbmm", "aten::addbmm_")
def _add_sum_of_matmuls(inputs: list, outputs: list) -> int:
    batch, _, inner = inputs[1]
    return outputs[0].numel() * batch * inner


@register_flop_rule("aten::outer", "aten::ger", "aten::addr", "aten::addr_")
def _outer(inputs: list, outputs: list) -> int:
    return outputs[0].numel()


@register_flop_rule("aten::tensordot")
def _tensordot(inputs: list, outputs: list) -> int:
    a, _, dims = inputs[:3]
    return outputs[0].numel() * math.prod(a[d] for d in dims)


@register_flop_rule("aten::_grouped_mm")
def _grouped_matmul(inputs: list, outputs: list) -> int:
    # A 2-D operand holds all groups one behind the other, a 3-D operand one matrix a group: the offsets change nothing.
    a, b = inputs[:2]
    return (a if len(b) == 3 else a[-2:]).numel() * b[-1]


@register_flop_rule("aten::_convolution", "aten::_convolution_mode", "aten::convolution")
def _convolution(inputs: list, outputs: list) -> int:
    x, weight = inputs[:2]
    transposed = inputs[6] is True  # the other one, whose padding is "same" or "valid", has its groups there
    return (x if transposed else outputs[0]).numel() * weight[1:].numel()


@register_flop_rule("aten::convolution_backward")
def _convolution_backward(inputs: list, outputs: list) -> int:
    grad, x, weight = inputs[:3]
    transposed, wanted = inputs[7], inputs[10]
    return (x if transposed else grad).numel() * weight[1:].numel() * sum(wanted[:2])


_KERNELS = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
ATTENTION = (
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_attention_math",
    *(f"aten::_scaled_dot_product_{kernel}" for kernel in _KERNELS),
)
ATTENTION_BACKWARD = (
    "aten::scaled_dot_product_attention_backward",
    *(f"aten::_scaled_dot_product_{kernel}_backward" for kernel in _KERNELS),
)


@register_flop_rule(*ATTENTION)
def _attention(inputs: list, outputs: list) -> int:
    query, key, value = inputs[:3]
    return outputs[0][:-1].numel() * key[-2] * (query[-1] + value[-1])


@register_flop_rule(*ATTENTION_BACKWARD)
def _attention_backward(inputs: list, outputs: list) -> int:
    # The scores are computed again, and each of the two products has two products for its gradients.
    grad, query, key, value = inputs[:4]
    return grad[:-1].numel() * key[-2] * (3 * query[-1] + 2 * value[-1])


@register_flop_rule("zoo::grouped_linear")
def _grouped_linear(inputs: list, outputs: list) -> int:
    return inputs[0].numel() * inputs[1][-2]


@register_flop_rule("zoo::grouped_linear_backward")
def _grouped_linear_backward(inputs: list, outputs: list) -> int:
    return 2 * inputs[0].numel() * inputs[2][-1]


@register_flop_rule("zoo::evaluation")  # what modules trace for functions evaluated element by element
def _evaluation(inputs: list, outputs: list) -> int:
    x, _, macs = inputs
    return x.numel() * macs


@register_flop_rule("zoo::evaluation_backward")  # the derivatives, and the gradient of each output times its own
def _evaluation_backward(inputs: list, outputs: list) -> int:
    grad, x, macs = inputs
    return x.numel() * macs + grad.numel()


@register_flop_rule("aten::einsum")
def _einsum(inputs: list, outputs: list) -> int:
    equation, shapes, path = inputs
    terms, _, result = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    operands = [_labels(term, shape, sizes) for term, shape in zip(terms.split(","), shapes, strict=True)]
    if "->" in equation:
        kept = _labels(result, outputs[0], sizes)
    else:  # implicit output: the dimensions under "..." and the labels that occur once
        kept = {c for labels in operands for c in labels if c.isdigit() or terms.count(c) == 1}
    # Without opt_einsum, torch contracts from left to right.
    steps = zip(path[::2], path[1::2], strict=True) if path else [(0, 1)] * (len(operands) - 1)
    macs = 0
    for i, j in steps:
        a, b = operands[i], operands[j]
        operands = [labels for k, labels in enumerate(operands) if k not in (i, j)]
        later = kept.union(*operands)
        macs += math.prod(sizes[c] for c in a | b if c in later or (c in a and c in b))  # the others are summed first
        operands = [(a | b) & later, *operands] if not path else [*operands, (a | b) & later]
    return macs


def _labels(term: str, shape: Size, sizes: dict[str, int]) -> set[str]:
    """The labels of an einsum operand; the dimensions under "..." count as 0, 1, ... from the right. Notes sizes."""
    left, dots, right = term.partition("...")
    labels = [*left, *map(str, reversed(range(len(shape) - len(left) - len(right)))), *right] if dots else [*term]
    for label, size in zip(labels, shape, strict=True):
        sizes[label] = max(size, sizes.get(label, 1))
    return set(labels)


_FFTS = {"fft": 1.0, "ifft": 1.0, "rfft": 0.5, "irfft": 0.5, "hfft": 0.5, "ihfft": 0.5}  # real data: half of the work


def _fft_rule(kind: str, rank: str) -> Rule:
    def rule(inputs: list, outputs: list) -> int:
        x, y, shape, dims = inputs[0], outputs[0], inputs[1], inputs[2]
        if dims is None:
            dims = range(len(y))[-len(shape) :] if shape is not None else range(len(y))
        dims = [d % len(y) for d in (dims if isinstance(dims, Sequence) else [dims])]
        lengths = [y[d] for d in dims]
        if kind in ("rfft", "ihfft"):  # the result holds half of the last length
            last = x[dims[-1]]
            lengths[-1] = last if last // 2 + 1 == lengths[-1] else 2 * (lengths[-1] - 1)
        points = math.prod(lengths)
        transforms = math.prod(size for d, size in enumerate(y) if d not in dims)
        return round(transforms * 2.5 * points * math.log2(points) * _FFTS[kind])

    rule.__qualname__ = f"fft_{kind}{rank}"
    return rule


for _kind in _FFTS:
    for _rank in ("", "2", "n"):
        register_flop_rule(f"aten::fft_{_kind}{_rank}")(_fft_rule(_kind, _rank))


def _fft_as_it_runs(kind: str) -> Rule:
    def rule(inputs: list, outputs: list) -> int:
        whole = outputs[0] if kind == "c2r" else inputs[0]  # the side on which no half is left out
        points = math.prod(whole[d] for d in inputs[1])
        work = 2.5 if kind == "c2c" else 1.25
        return round(whole.numel() * work * math.log2(points)) if points else 0

    rule.__qualname__ = f"_fft_{kind}"
    return rule


for _kind in ("c2c", "r2c", "c2r"):
    register_flop_rule(f"aten::_fft_{_kind}")(_fft_as_it_runs(_kind))
