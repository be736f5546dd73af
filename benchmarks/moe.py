"""Speed of the mixture of experts: `python benchmarks/moe.py [--device cuda] [--kinds mlp glu]`.

2,048 tokens of 384 channels, 8 experts, 2 of them for each token, against the dense layer of the same active width: for
gated experts and perceptrons of 1,536 hidden features those of 3,072; for experts that are mixers run one after another
(perceptrons, and Kolmogorov-Arnold layers of 96 hidden features) their mixer of twice the width; for modulated experts,
which have no dense twin, the perceptron of as many multiply-accumulates. The gated ones also against transformers'
Mixtral block with the same weights in both its implementations, eager and grouped, if that package is installed.

Measured as in `timing.py`: the models of a kind stand in one process and take turns, a figure is the median of a
round's ratios to the dense layer, so 1 is as fast as that and less is better. With backward: gradients of all weights
and of the input. Before the clock starts the outputs of zoo and of the Mixtral block are compared. The mixtures report
their losses and statistics in every pass.
"""

import argparse
import platform
import statistics
from collections.abc import Iterator

import torch
from timing import forward_of, rounds_of, step_of
from torch import Tensor, nn

import zoo
from zoo.blocks.moe.layer import MoE

TOKENS, DIM, HIDDEN, EXPERTS, TOP_K = 2048, 384, 1536, 8, 2
NARROW = 96  # hidden features of an expert of splines
KINDS = {  # experts, and the dense layer that they are measured against
    "glu": (f"glu(hidden={HIDDEN}, bias=False)", f"glu(hidden={TOP_K * HIDDEN}, bias=False)"),
    "mlp": (f"mlp(hidden={HIDDEN})", f"mlp(hidden={TOP_K * HIDDEN})"),
    "modulated": (f"modulated(hidden={HIDDEN})", f"mlp(hidden={HIDDEN + (1 + TOP_K) * DIM})"),
    "mlp mixers": ([f"mlp(hidden={HIDDEN})"], f"mlp(hidden={TOP_K * HIDDEN})"),
    "spline_kan mixers": ([f"spline_kan(hidden={NARROW})"], f"spline_kan(hidden={TOP_K * NARROW})"),
}


def mixtral(layer: MoE, implementation: str) -> nn.Module | None:
    """transformers' block with the layer's weights; None if the package is not there."""
    try:
        from transformers import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    except ImportError:
        return None
    sizes = dict(hidden_size=DIM, intermediate_size=HIDDEN, num_local_experts=EXPERTS, num_experts_per_tok=TOP_K)
    block = MixtralSparseMoeBlock(MixtralConfig(**sizes, experts_implementation=implementation))
    with torch.no_grad():
        block.gate.weight.copy_(layer.router.gate.weight)
        block.experts.gate_up_proj.copy_(layer.experts.fc1.weight)
        block.experts.down_proj.copy_(layer.experts.fc2.weight)
    return block


def make(kind: str, dtype: torch.dtype, device: str) -> dict[str, nn.Module]:
    """The dense layer and the mixtures by name, zoo's and the Mixtral blocks of equal weights."""
    experts, dense = KINDS[kind]
    layer = MoE(DIM, num_experts=EXPERTS, top_k=TOP_K, experts=experts)
    models = {"dense": zoo.create_block("channel_mixer", dense, DIM), "zoo": layer}
    if kind == "glu":
        blocks = {how: mixtral(layer, how) for how in ("eager", "grouped_mm")}
        models |= {f"Mixtral, {how}": block for how, block in blocks.items() if block is not None}
    x = torch.randn(1, TOKENS, DIM)
    for name, model in models.items():
        if name.startswith("Mixtral"):
            with torch.no_grad():
                assert torch.allclose(output_of(model, x), layer(x)[0], atol=1e-5), f"{name} computes something else"
    return {name: model.to(device, dtype) for name, model in models.items()}


def output_of(model: nn.Module, x: Tensor) -> Tensor:
    """The output without what comes beside it."""
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--compile", action="store_true", help="compile the dense layer and zoo's mixture")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    place = f"{args.threads} threads" if args.device == "cpu" else torch.cuda.get_device_name(args.device)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {place}, {args.rounds} rounds\n")
    print("| experts | precision | pass | dense | mixtures over dense |\n|" + "---|" * 5)
    for kind in args.kinds:
        for dtype, precision in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
            for what, dense, ratios in measure(kind, dtype, args):
                found = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
                print(f"| {kind} | {precision} | {what} | {dense * 1e3:.1f} ms | {found} |", flush=True)


def measure(kind: str, dtype: torch.dtype, args: argparse.Namespace) -> Iterator[tuple[str, float, dict[str, float]]]:
    """For both passes the seconds of the dense layer, and the mixtures' over these."""
    models = make(kind, dtype, args.device)
    if args.compile:
        torch.compiler.reset()  # or the limit of programs for one function, such as a perceptron's, is soon reached
        models = {n: m if n.startswith("Mixtral") else torch.compile(m) for n, m in models.items()}
    x = torch.randn(1, TOKENS, DIM, device=args.device, dtype=dtype)
    functions = {name: lambda x, model=model: output_of(model, x) for name, model in models.items()}
    for what in ("forward", "with backward"):
        calls = {
            name: forward_of(function, x) if what == "forward" else step_of(function, x, [*models[name].parameters()])
            for name, function in functions.items()
        }
        times = rounds_of(calls, args.rounds, args.device)
        ratios = {n: statistics.median(t / d for t, d in zip(times[n], times["dense"], strict=True)) for n in models}
        yield what, statistics.median(times["dense"]), {n: ratio for n, ratio in ratios.items() if n != "dense"}


if __name__ == "__main__":
    main()
