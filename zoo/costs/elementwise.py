"""Arithmetic that is no multiply-accumulate: operations on single numbers, of one operator each.

One operation is an addition, a comparison, a root, an exponential: whatever a pointwise operator does to one number
counts once. These numbers are for rooflines, where such operators are bound by memory; they are no part of the MACs.
"""

import math
from collections.abc import Callable

from torch import Size

from zoo.costs.rules import ATTENTION, ATTENTION_BACKWARD

Count = Callable[[list, list], int]
COUNTS: dict[str, Count] = {}


def _numel(value) -> int:
    """Of a size, of the first of a list of them; 0 for anything else."""
    if isinstance(value, Size):
        return value.numel()
    return sum(map(_numel, value)) if isinstance(value, list) else 0


def _each_input(times: float, names: str) -> None:
    for name in names.split():
        COUNTS[f"aten::{name}"] = lambda inputs, outputs: round(times * _numel(inputs[0]))


def _each_output(times: float, names: str) -> None:
    for name in names.split():
        COUNTS[f"aten::{name}"] = lambda inputs, outputs: round(times * _numel(outputs[0]))


def _window(name: str, of: Callable[[list, list], int], kernel: int, rank: int) -> None:
    """A pooling: for each window as many as it has elements."""

    def count(inputs: list, outputs: list) -> int:
        size = inputs[kernel]
        size = [size] * rank if isinstance(size, int) else [*size] * (rank if len(size) == 1 else 1)
        return _numel(of(inputs, outputs)) * math.prod(size)

    COUNTS[f"aten::{name}"] = count


# Reductions and scans: one an element. A variance is three: the mean's addition, a difference, a square added.
_each_input(1, "sum nansum prod mean amax amin max min any all argmax argmin aminmax count_nonzero")
_each_input(1, "cumsum cumprod cummax cummin logcumsumexp trace nonzero bincount histc unique_dim _unique2")
_each_input(2, "linalg_vector_norm norm logsumexp dist _cdist_forward")
_each_input(3, "var std var_mean std_mean")
_each_input(4, "linalg_matrix_norm _weight_norm_interface _weight_norm")

# Norms: mean and variance 4, difference and scale 2, weight and bias 2.
_each_input(8, "native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit")
_each_input(8, "_native_batch_norm_legit_functional batch_norm_with_update cudnn_batch_norm")
_each_input(2, "_native_batch_norm_legit_no_training _batch_norm_no_update")
_each_input(5, "_fused_rms_norm rms_norm")
_each_input(16, "native_layer_norm_backward native_group_norm_backward native_batch_norm_backward")
_each_input(16, "batch_norm_backward cudnn_batch_norm_backward")
_each_input(10, "_fused_rms_norm_backward")

# Softmax: maximum, difference, exponential, sum, quotient.
_each_input(5, "_softmax _log_softmax _safe_softmax _masked_softmax")
_each_input(4, "_softmax_backward_data _log_softmax_backward_data _masked_softmax_backward")

# Attention in one piece: a scale and a softmax for each score.
for _name in ATTENTION:
    COUNTS[_name] = lambda inputs, outputs: 6 * outputs[0][:-1].numel() * inputs[1][-2]
for _name in ATTENTION_BACKWARD:
    COUNTS[_name] = lambda inputs, outputs: 10 * inputs[0][:-1].numel() * inputs[2][-2]

# Pooling and interpolation: the kernels' weights are multiplied, but no published count has them among the MACs.
for _rank in (1, 2, 3):
    _window(f"avg_pool{_rank}d", lambda inputs, outputs: outputs[0], 1, _rank)
    _window(f"max_pool{_rank}d_with_indices", lambda inputs, outputs: outputs[0], 1, _rank)
    _window(f"avg_pool{_rank}d_backward", lambda inputs, outputs: inputs[0], 2, _rank)
    _each_input(1, f"_adaptive_avg_pool{_rank}d adaptive_avg_pool{_rank}d adaptive_max_pool{_rank}d")
    _each_output(1, f"_adaptive_avg_pool{_rank}d_backward adaptive_max_pool{_rank}d_backward")
    _each_input(1, f"max_pool{_rank}d_with_indices_backward")
_each_output(4, "upsample_linear1d _upsample_linear1d")
_each_output(8, "upsample_bilinear2d _upsample_bilinear2d_aa grid_sampler_2d")
_each_output(16, "upsample_trilinear3d grid_sampler_3d")
_each_output(32, "upsample_bicubic2d _upsample_bicubic2d_aa")
_each_input(1, "upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward")
_each_input(1, "_upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward")
_each_input(4, "upsample_linear1d_backward")
_each_input(8, "upsample_bilinear2d_backward _upsample_bilinear2d_aa_backward grid_sampler_2d_backward")
_each_input(32, "upsample_bicubic2d_backward _upsample_bicubic2d_aa_backward")

# Sums into places: one for each number that is added.
for _name, _source in {
    "scatter_add": 3, "scatter_add_": 3, "scatter_reduce": 3, "scatter_reduce_": 3, "index_add": 3, "index_add_": 3,
    "index_put": 2, "index_put_": 2, "_index_put_impl_": 2, "embedding_dense_backward": 0, "col2im": 0,
}.items():  # fmt: skip
    COUNTS[f"aten::{_name}"] = lambda inputs, outputs, source=_source: _numel(inputs[source])

# Sorting and searching compare: n log2 n, and log2 n for each number that is looked up.
for _name in ("sort", "argsort", "topk", "msort", "kthvalue", "median", "mode"):
    COUNTS[f"aten::{_name}"] = lambda inputs, outputs: round(
        _numel(inputs[0]) * math.log2(max(2, inputs[0][-1] if inputs[0] else 1))
    )
for _name, _place in (("searchsorted", 0), ("bucketize", 1)):
    COUNTS[f"aten::{_name}"] = lambda inputs, outputs, place=_place: round(
        _numel(outputs[0]) * math.log2(max(2, inputs[place][-1]))
    )

# Not marked as pointwise by torch.
_each_output(1, "floor_divide hardswish hardswish_backward hardsigmoid_backward leaky_relu_backward rrelu_with_noise")
_each_output(1, "hardtanh_backward threshold_backward elu_backward gelu_backward silu_backward mish_backward")
_each_output(1, "_prelu_kernel _prelu_kernel_backward glu glu_backward softplus_backward logit_backward")

# Random numbers, one each.
_each_output(1, "rand rand_like randn randn_like randint randint_like randperm bernoulli multinomial")
_each_output(1, "bernoulli_ uniform_ normal_ random_ exponential_ log_normal_ cauchy_ geometric_ normal")
_each_output(2, "native_dropout native_dropout_backward")

# Losses: one operation a number, beside what softmax and the rest have counted.
_each_input(1, "nll_loss_forward nll_loss_backward nll_loss2d_forward nll_loss2d_backward mse_loss_backward")


def pointwise(inputs: list, outputs: list) -> int:
    """One operation for each number that comes out."""
    return max(map(_numel, outputs), default=0)
