"""`count_costs` against costs by hand: backward passes, kept activations, traffic, other arithmetic."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.costs import Work, count_costs, register_flop_rule

FLOAT = 4  # bytes


class Calling(nn.Module):
    """A function as a module, with parameters of given shapes before its inputs."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.function, self.weights = function, nn.ParameterList([torch.randn(shape) for shape in shapes])

    def forward(self, *inputs):
        return self.function(*self.weights, *inputs)


@pytest.mark.parametrize(
    ("function", "shapes", "size", "forward", "backward"),
    [
        (lambda w, x: x @ w, [(8, 4)], (2, 8), 64, 64),  # the input has no gradient
        (lambda w, v, x: x @ w @ v, [(8, 4), (4, 5)], (2, 8), 64 + 40, 64 + 80),
        (lambda w, x: F.conv2d(x, w, padding=1), [(6, 3, 3, 3)], (3, 8, 8), 64 * 6 * 27, 64 * 6 * 27),
        (lambda w, v, x: F.conv2d(F.conv2d(x, w), v, groups=2), [(4, 3, 1, 1), (4, 2, 1, 1)], (3, 2, 2), 80, 48 + 64),
        (lambda w, x: F.conv_transpose2d(x, w, stride=2), [(3, 5, 2, 2)], (3, 4, 4), 16 * 3 * 20, 16 * 3 * 20),
        (lambda w, x: torch.einsum("bnd,de->bne", x, w), [(8, 3)], (2, 8), 48, 48),
        (lambda w, x: torch.fft.rfft(x * w).abs(), [(8,)], (2, 8), 2 * 30, 2 * 60),  # its gradient is complex
    ],
)
def test_macs_of_both_directions(function, shapes, size, forward, backward):
    report = count_costs(Calling(function, *shapes), size)
    assert (report.macs, report.backward_macs) == (forward, backward)
    assert not report.unknown and report.flops == 2 * report.macs


def test_attention_is_five_products_backward_and_keeps_no_scores():
    tokens, heads, width = 16, 2, 8
    model = Calling(lambda w, x: F.scaled_dot_product_attention(*(x * w).expand(3, 1, -1, -1, -1)), (1,))
    x = torch.empty(1, heads, tokens, width, device="meta")
    report = count_costs(model, inputs=x)
    product = heads * tokens * tokens * width
    assert (report.macs, report.backward_macs) == (2 * product, 5 * product)
    assert report.activation_bytes < 2 * product * FLOAT / width  # less than scores
    explicit = Calling(lambda w, x: ((x * w) @ (x * w).mT).softmax(-1) @ (x * w), (1,))
    assert count_costs(explicit, inputs=x).backward_macs == 4 * product


def test_frozen_parameters_have_no_backward_pass():
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    whole = count_costs(model, (8,))
    assert (whole.trainable_params, whole.frozen_params) == (8 * 16 + 16 + 16 * 4 + 4, 0)
    model[0].requires_grad_(False)
    report = count_costs(model, (8,))
    assert (report.trainable_params, report.frozen_params) == (16 * 4 + 4, 8 * 16 + 16)
    assert (report.backward_macs, whole.backward_macs) == (64, 128 + 2 * 64)
    assert report.activation_bytes == 16 * FLOAT
    nothing = count_costs(model.requires_grad_(False), (8,))
    assert (nothing.backward_macs, nothing.activation_bytes, nothing.macs) == (0, 0, whole.macs)


def test_shared_parameters_count_once_and_their_work_twice():
    linear = nn.Linear(8, 8)
    report = count_costs(nn.Sequential(linear, nn.ReLU(), linear), (8,))
    assert report.params == report.trainable_params == 72
    assert (report.macs, report.backward_macs) == (128, 64 + 128)


def test_what_is_kept_is_each_memory_once_and_no_parameter_or_input():
    """ReLU keeps its result, which the next layer keeps too; GELU keeps its input."""
    relu = nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 4))
    gelu = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    assert count_costs(relu, (8,)).activation_bytes == 16 * FLOAT
    report = count_costs(gelu, (8,))
    assert report.activation_bytes == 2 * 16 * FLOAT
    assert report.activations_by_module == {"": 128, "0": 0, "1": 64, "2": 64}
    assert count_costs(gelu.to(torch.bfloat16), (8,)).activation_bytes == 2 * 16 * 2


def test_traffic_of_one_operator_each():
    linear = count_costs(nn.Linear(8, 16), (8,), batch_size=3, training=False)
    weights, rows = (8 * 16 + 16) * FLOAT, (8 + 16) * FLOAT
    assert linear.bytes == round((weights + 3 * rows) / 3) and linear.backward_by_module == {}
    assert linear.forward["addmm"].bytes_written == 16 * FLOAT
    views = count_costs(Calling(lambda x: x.view(2, 4).mT[1:].expand(3, 3, 2)), (8,), training=False)
    assert views.bytes == 0
    copied = count_costs(Calling(lambda x: x.view(2, 4).mT.contiguous()), (8,), training=False)
    assert copied.bytes == 2 * 8 * FLOAT
    table = nn.Embedding(1000, 8)
    rows = count_costs(table, inputs=torch.zeros(1, 5, dtype=torch.long), training=False)
    assert rows.bytes == 5 * 8 + 2 * 5 * 8 * FLOAT  # indices, rows, the result
    in_place = count_costs(Calling(lambda x: x.clone().add_(1)), (8,), training=False)
    assert in_place.forward["add"].bytes == 2 * 8 * FLOAT and in_place.forward["clone"].bytes == 2 * 8 * FLOAT


def test_other_arithmetic():
    count = lambda function, *size: count_costs(Calling(function), size, training=False).forward
    assert count(lambda x: x.relu() + x, 4, 8)["relu"].other_flops == 32
    assert count(lambda x: F.layer_norm(x, (8,)), 4, 8)["native_layer_norm"].other_flops == 8 * 32
    assert count(lambda x: x.softmax(-1), 4, 8)["softmax"].other_flops == 5 * 32
    assert count(lambda x: x.cumsum(-1), 4, 8)["cumsum"].other_flops == 32
    assert count(lambda x: F.avg_pool2d(x, 2), 3, 8, 8)["avg_pool2d"].other_flops == 3 * 16 * 4
    bilinear = count(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 3, 8, 8)["upsample_bilinear2d"]
    assert (bilinear.macs, bilinear.other_flops) == (0, 8 * 3 * 256)
    assert count(lambda x: x.sort()[0], 4, 8)["sort"].other_flops == 3 * 32


def test_wrong_peaks_depths_and_inputs_are_named():
    report = count_costs(nn.Linear(4, 4), (4,))
    with pytest.raises(ValueError, match="flops_per_second is 0; it must be"):
        report.roofline(0, 1e9)
    with pytest.raises(ValueError, match="depth is -1; it must be"):
        report.table(-1)
    for wrong in ({"x": torch.ones(1, 4)}, [torch.ones(1, 4)]):
        with pytest.raises(TypeError, match="of what the model takes; give it as inputs="):
            count_costs(nn.Linear(4, 4), wrong)
    with pytest.raises(ValueError, match=r"shape \(1, 4\) by the names y .*; give input_size= or inputs= .* takes$"):
        count_costs(nn.Linear(4, 4), inputs={"y": torch.ones(1, 4)})


def test_intensity_and_roofline():
    report = count_costs(nn.Linear(512, 512, bias=False), (512,), batch_size=512, training=False)
    work = report.forward["mm"]
    assert work.intensity == pytest.approx(2 * 512**3 / (3 * 512 * 512 * FLOAT))
    assert report.intensity == work.intensity
    bound = report.roofline(flops_per_second=1e9, bytes_per_second=1e6)["mm"]
    assert bound == pytest.approx(max(2 * 512 * 512 / 1e9, 3 * 512 * FLOAT / 1e6))
    assert Work(1, 2, 3, 4, 5) + Work(1, 1, 1, 1, 1) == Work(2, 3, 4, 5, 6)
    assert (Work(2, 4, 0, 8, 0) / 2, Work().intensity) == (Work(2, 2, 0, 4, 0), 0.0)


def test_an_operator_that_nothing_is_known_of_is_named_and_a_rule_makes_it_known():
    @torch.library.custom_op("zoo_tests::strange", mutates_args=())
    def strange(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    strange.register_fake(torch.empty_like)
    model = Calling(lambda x: strange(x))
    report = count_costs(model, (8,), training=False)
    assert report.unknown == {"zoo_tests::strange": 1} and "Nothing is known of" in str(report)
    register_flop_rule("zoo_tests::strange")(lambda inputs, outputs: 7 * outputs[0].numel())
    report = count_costs(model, (8,), training=False)
    assert report.macs == 56 and not report.unknown


def test_models_that_only_values_decide_run_on_their_own_device_and_stay_as_they_are():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

        def forward(self, x):
            return self.fc(self.norm(x)) if float(x.sum()) < 1 else x

    model = Deciding()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = count_costs(model, (8,))
    assert (report.macs, report.backward_macs) == (64, 128)  # its norm takes two samples in training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.fc.weight.grad is None and model.training


def test_arguments_by_name():
    model = Calling(lambda x: x)
    model.forward = lambda x, scale=None, twice=False: x @ scale * (2 if twice else 1)
    inputs = {"x": torch.empty(3, 4, 8), "scale": torch.empty(8, 8), "twice": True}
    assert zoo.count_flops(model, inputs=inputs).macs == 4 * 64
    with pytest.raises(TypeError, match="a mapping of its arguments by name"):
        zoo.count_flops(model, inputs={"twice": True})
    with pytest.raises(ValueError, match="cannot be traced .*torch.jit traces no arguments by name"):
        zoo.count_flops(model, inputs=inputs, engine="jit")
    with pytest.raises(ValueError, match="engine is 'fvcore'"):
        zoo.count_flops(model, inputs=inputs, engine="fvcore")


def test_recurrent_layers_are_counted_by_their_products():
    """torch.jit has them in one piece, without shapes."""
    report = zoo.count_flops(nn.LSTM(8, 16, batch_first=True), (5, 8))
    assert report.macs == 5 * 4 * 16 * (8 + 16)


def test_the_table():
    text = zoo.count_costs(zoo.create_model("vit_test")).table(2)
    for part in ("backward 1.49 M MACs", "kept for it", "FLOPs/byte", "  blocks.0", "scaled_dot_product_attention"):
        assert part in text, text
