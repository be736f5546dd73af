"""What comes in at a model's door: wrong inputs are told what would be right, right ones go through as they are."""

import pytest
import torch
from conftest import TEST_VARIANTS, TINY_VARIANTS, VECTOR_VARIANTS, randomised
from torch import fx, nn

import zoo
from zoo.skeletons import image, vectors

ALL = pytest.mark.parametrize("name", TINY_VARIANTS)
IMAGES = pytest.mark.parametrize("name", TEST_VARIANTS)
NUMBERS = [torch.uint8, torch.int64, torch.bool, torch.complex64]


def doors(model: nn.Module) -> dict:
    """Every way into a model."""
    ways = {"forward": model, "features": model.forward_features}
    return ways | ({"intermediates": model.forward_intermediates} if hasattr(model, "forward_intermediates") else {})


def refused(model: nn.Module, x, kind: type[Exception], *words: str) -> None:
    for way, door in doors(model).items():
        with pytest.raises(kind) as caught:
            door(x)
        message = str(caught.value)
        assert all(word in message for word in words) and len(message) < 500, (way, message)


# --- Wrong inputs -----------------------------------------------------------------------------------------------------


@ALL
def test_numbers_of_another_kind(name):
    model = zoo.create_model(name)
    x = torch.zeros(2, *model.input_size)
    for dtype in NUMBERS:
        remedy = ("x.float() / 255", "create_transform") if model.vision else ("x.float()",)
        refused(model, x.to(dtype), TypeError, f"got {dtype}", *remedy)
    for dtype in (torch.float64, torch.bfloat16):
        refused(model, x.to(dtype), TypeError, f"got {dtype}", "x.to(torch.float32)", f"model.to({dtype})")
    refused(model.bfloat16(), x, TypeError, "got torch.float32", "of torch.bfloat16", "x.to(torch.bfloat16)")


@IMAGES
def test_shapes_that_are_no_batch_of_images(name):
    model = zoo.create_model(name)
    channels, height, width = model.input_size
    x = torch.zeros(2, *model.input_size)
    refused(model, x[0], ValueError, f"expected images (B, {channels}, H, W), got {tuple(x[0].shape)}", "`x[None]`")
    refused(model, x.permute(0, 2, 3, 1), ValueError, "`x.permute(0, 3, 1, 2)`")
    refused(model, torch.zeros(2, channels + 1, height, width), ValueError, f"in_chans={channels + 1}")
    for shape in ((2, channels, 0, width), (2, channels, height, 0), (0, channels, 0, 0)):
        refused(model, torch.zeros(shape), ValueError, f"{shape[2]} x {shape[3]}", "no pixels")
    for shape in ((), (7,), (1, 2, channels, height, width)):
        refused(model, torch.zeros(shape), ValueError, f"got {shape}")
    refused(model, x.numpy(), TypeError, "numpy.ndarray", "create_transform")


def test_the_remedy_is_the_one_that_fits():
    colour, grey = zoo.create_model("vit_test"), zoo.create_model("vit_test", in_chans=1)
    refused(colour, torch.zeros(2, 1, 32, 32), ValueError, "x.expand(-1, 3, -1, -1)", "in_chans=1")
    refused(colour, torch.zeros(32, 32, 3), ValueError, "x.permute(2, 0, 1)[None]")
    refused(grey, torch.zeros(32, 32), ValueError, "x[None, None]")
    refused(grey, torch.zeros(5, 32, 32), ValueError, "x[:, None]")
    refused(colour, [torch.zeros(3, 32, 32)], TypeError, "type list")


@pytest.mark.parametrize("name", VECTOR_VARIANTS)
def test_what_are_no_vectors(name):
    model = zoo.create_model(name)
    for shape in ((2, 4), (4,), ()):
        refused(model, torch.zeros(shape), ValueError, f"{shape}", "in_chans")
    refused(model, [1.0, 2.0, 3.0], TypeError, "type list", "torch.as_tensor")


def test_models_around_a_model_have_its_door():
    pytest.importorskip("accelerate", reason="the recipes need zoo[train]")
    from zoo.training import Classifier, Dense, MultiTask, Pyramid, Segmenter

    pyramid = Pyramid(num_classes=3, width=8, out_indices=(0, 1))
    heads = {"one": Classifier(num_classes=2), "map": Dense(num_classes=2, width=8, out_indices=(0, 1))}
    multitask = MultiTask("vit_test", heads)
    for call in (
        zoo.create_model("swin_test", features_only=True),
        zoo.create_model("vit_test", features_only=True),
        Segmenter("vit_test", pyramid),
        lambda x: multitask(x, task="one"),
        lambda x: multitask(x, task="map"),
    ):
        with pytest.raises(TypeError, match=r"got torch.uint8; .*x.float\(\) / 255"):
            call(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        with pytest.raises(ValueError, match=r"x\[None\]"):
            call(torch.zeros(3, 32, 32))


def test_a_compiled_model_says_the_same():
    torch.compiler.reset()
    model = torch.compile(zoo.create_model("vit_test"), backend="eager")
    with pytest.raises(TypeError, match="got torch.uint8"):
        model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"x\[None\]"):
        model(torch.zeros(3, 32, 32))


# --- Right inputs -----------------------------------------------------------------------------------------------------


@ALL
def test_autocast_brings_floats_together(name):
    model = randomised(zoo.create_model(name))
    x = torch.randn(2, *model.input_size)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        assert torch.allclose(model(x.bfloat16()).float(), expected.float(), atol=0.05, rtol=0.1)
        with pytest.raises(TypeError, match="got torch.float64"):  # which autocast leaves alone
            model(x.double())
        if name != "conventional_test":  # whose images meet norms first, which autocast leaves alone on a CPU
            assert torch.allclose(model.bfloat16()(x).float(), expected.float(), atol=0.05, rtol=0.1)
    assert model.double()(x.double()).dtype is torch.float64


class Casting(nn.Sequential):
    """A stem of a user that converts what it is given."""

    def forward(self, x):
        return super().forward(x.float())

    def grid(self, size):
        return self[0].grid(size)


@pytest.mark.parametrize("how", ["hook", "hook within", "forward", "class"])
def test_what_converts_its_input_is_left_to_do_so(how):
    model = randomised(zoo.create_model("vit_test"))
    x = torch.randn(2, 3, 32, 32)
    expected = model(x.half().float())
    with pytest.raises(TypeError, match="got torch.float16"):
        model(x.half())
    if how == "class":
        model.stem = Casting(model.stem)
    elif how == "forward":
        forward = model.stem.forward
        model.stem.forward = lambda x: forward(x.float())
    else:
        module = model.stem if how == "hook" else model.stem.proj
        module.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))
    assert torch.equal(model(x.half()), expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("name", "options"),
    [("vit_test", {}), ("mixer_test", {"token_mixer": "window"}), ("hourglass_test", {}), ("mlp_test", {})],
)
def test_the_door_leaves_nothing_in_what_is_recorded(name, options, monkeypatch):
    model = randomised(zoo.create_model(name, **options))
    x = torch.randn(2, *model.input_size)

    def nodes() -> dict[str, list[str]]:
        torch.compiler.reset()
        graphs = []

        def compile_(graph, inputs):
            graphs.append(graph.graph)
            return graph

        torch.compile(model, backend=compile_, fullgraph=True)(x)
        graphs += [torch.export.export(model, (x,)).graph, fx.symbolic_trace(model).graph]
        found = {str(i): [str(node.target) for node in graph.nodes] for i, graph in enumerate(graphs)}
        traced = torch.jit.trace(model, x, check_trace=False).inlined_graph
        return found | {"trace": [node.kind() for node in traced.nodes()]}

    with_door = nodes()
    monkeypatch.setattr(image, "check_images", lambda *args: None)
    monkeypatch.setattr(vectors, "check_vectors", lambda *args: None)
    assert len(with_door) == 4 and nodes() == with_door


@ALL
def test_a_batch_of_nothing(name):
    model = zoo.create_model(name)
    for training in (False, True):
        x = torch.zeros(0, *model.train(training).input_size, requires_grad=True)
        outputs, aux = model(x, return_aux=True)
        assert outputs.shape[0] == 0 and outputs.shape[1:] == model(torch.zeros(1, *model.input_size)).shape[1:]
        losses = [value for key, value in aux.items() if key.startswith("loss/")]
        (outputs.sum() + sum(losses)).backward()
        assert x.grad.shape == x.shape
        tensors = [*losses, *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
        assert all(tensor.isfinite().all() for tensor in tensors)
        for door in doors(model).values():
            found = door(x)
            assert (found[0] if isinstance(found, tuple) else found).shape[0] == 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.eval()(x).shape[0] == 0
    with torch.no_grad():
        assert model.bfloat16()(x.bfloat16()).shape[0] == 0
    with pytest.raises(ValueError, match="no samples"):
        zoo.count_flops(model, inputs=x)


KINDS = {kind: zoo.list_blocks(kind) for kind in ("token_mixer", "channel_mixer", "norm")}


@pytest.mark.parametrize(("kind", "block"), [(kind, block) for kind, blocks in KINDS.items() for block in blocks])
def test_a_batch_of_nothing_in_every_block(kind, block):
    try:
        model = zoo.create_model("poolformer_test", depths=[1, 1], dims=[16, 16], **{kind: block})
    except ValueError:
        pytest.skip("needs options")
    for training in (False, True):
        outputs, aux = model.train(training)(torch.zeros(0, *model.input_size), return_aux=True)
        losses = [value for key, value in aux.items() if key.startswith("loss/")]
        (outputs.sum() + sum(losses)).backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert outputs.shape == (0, 10) and all(t.isfinite().all() for t in (*losses, *grads, *model.buffers()))


@pytest.mark.parametrize("norm", zoo.list_blocks("norm"))
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1), (1, 1, 1, 1), (2, 1), (0, 1), (0, 2, 2, 3), (1,), (3,)])
def test_norms_of_little(norm, shape):
    over_the_batch = norm == "batchnorm"
    norm = zoo.create_block("norm", norm, dim=shape[-1])
    for training in (False, True):
        x = torch.randn(shape, requires_grad=True)
        if over_the_batch and training and x.numel() == shape[-1]:  # one value a channel has no variance
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                norm.train()(x)
            continue
        y = norm.train(training)(x)
        y.sum().backward()
        assert y.shape == x.shape and y.isfinite().all() and x.grad.isfinite().all()


def test_one_vector_through_a_group_norm_of_one_channel():
    model = randomised(zoo.create_model("kan_test", hidden=[1, 5], norm="groupnorm"))
    assert torch.allclose(model(torch.ones(1, 3)), model(torch.ones(2, 3))[:1], atol=1e-6)
    assert torch.equal(model(torch.ones(3)), model(torch.ones(1, 3))[0])
    assert zoo.count_flops(model).macs > 0


@pytest.mark.parametrize("batch", [0, -1, True, 1.5])
def test_costs_of_no_sample(batch):
    with pytest.raises(ValueError, match="batch_size is"):
        zoo.count_flops(zoo.create_model("mlp_test"), batch_size=batch)
