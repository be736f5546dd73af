"""Speed and memory of the Kolmogorov-Arnold layers: `python benchmarks/kan.py [PART …]`.

Without a part it runs all five and prints their Markdown tables.

- layers: 256 -> 256 features on 1,024 rows. zoo's `KANLinear` by basis, the formulas of efficient-kan (cubic splines by
  the recursion of Cox and de Boor) and of fast-kan (layer norm and Gaussians), written anew below, pykan's own layer if
  the package pykan is installed, and `nn.Linear`. With backward: gradients of the weights and of the input.
- memory: peak of such a step, and of one forward pass over 65,536 rows of 512 features, in what torch's allocator hands
  out.
- rational: zoo's group-wise rational against a plain spelling in torch, and against GELU, in eager mode and compiled.
- training: a step of KAT-T against one of DeiT-T, in eager mode and compiled.
- compiled: channel mixers of 192 channels on 8 x 197 tokens (`gr_kan`, `kan` with each basis, `mlp` beside them): time
  compiled over time in eager mode.

How it is measured: all that stands in a table runs in one process and takes turns, once each a round, after two rounds
that do not count; a figure is the median over the rounds. With one thread the clock counts processor time, otherwise
wall time. Before the clock starts, layers of the same function are compared.
"""

import argparse
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from timing import forward_of, medians, step_of
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.bench.memory import peak_bytes
from zoo.blocks.kan.linear import KANLinear

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")
PARTS = ("layers", "memory", "rational", "training", "compiled")


# --- Other people's formulas ------------------------------------------------------------------------------------------


class CoxDeBoorKAN(nn.Module):
    """efficient-kan's layer: every level of the recursion a new tensor, a scale on every edge."""

    def __init__(self, in_features: int, out_features: int, grid_size: int = 5, order: int = 3):
        super().__init__()
        self.order = order
        knots = torch.arange(-order, grid_size + order + 1) * (2 / grid_size) - 1
        self.register_buffer("knots", knots.expand(in_features, -1).contiguous())
        self.base = nn.Parameter(torch.randn(out_features, in_features) / 16)
        self.spline = nn.Parameter(torch.randn(out_features, in_features, grid_size + order) / 50)
        self.edge_scale = nn.Parameter(torch.rand(out_features, in_features))

    def weight(self) -> Tensor:
        return self.spline * self.edge_scale.unsqueeze(-1)

    def forward(self, x: Tensor) -> Tensor:
        t, z = self.knots, x.unsqueeze(-1)
        splines = ((z >= t[:, :-1]) & (z < t[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            rising = (z - t[:, : -k - 1]) / (t[:, k:-1] - t[:, : -k - 1])
            falling = (t[:, k + 1 :] - z) / (t[:, k + 1 :] - t[:, 1:-k])
            splines = rising * splines[..., :-1] + falling * splines[..., 1:]
        return F.linear(F.silu(x), self.base) + F.linear(splines.flatten(1), self.weight().flatten(1))


class GaussianKAN(nn.Module):
    """fast-kan's layer: eight Gaussians of the normalised input, and a linear map of its SiLU."""

    def __init__(self, in_features: int, out_features: int, num: int = 8):
        super().__init__()
        self.norm = nn.LayerNorm(in_features)
        self.register_buffer("centres", torch.linspace(-2, 2, num))
        self.spline, self.base = nn.Linear(in_features * num, out_features, False), nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-(((self.norm(x).unsqueeze(-1) - self.centres) / (4 / 7)) ** 2))
        return self.spline(bumps.flatten(1)) + self.base(F.silu(x))


def plain_rational(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """The authors' form in plain torch: groups in front, all powers as one tensor, two matrix products.

    Its denominator is 1 + sum |b_k| x^k, without the absolute value of x: the work is the same.
    """
    groups, rows, channels = len(denominator), x.shape[:-1].numel(), x.shape[-1]
    z = x.reshape(rows, groups, channels // groups).transpose(0, 1).reshape(groups, -1)
    powers = [torch.ones_like(z), z]
    for _ in range(numerator.shape[1] - 2):
        powers.append(powers[-1] * z)
    stacked = torch.stack(powers, 1)
    missing = numerator.shape[1] - denominator.shape[1] - 1
    b = torch.cat([denominator.new_ones(groups, 1), denominator, denominator.new_zeros(groups, missing)], 1)
    p = torch.bmm(numerator.repeat(groups, 1).unsqueeze(1), stacked)
    q = torch.bmm(b.abs().unsqueeze(1), stacked)
    return (p / q).view(groups, rows, channels // groups).transpose(0, 1).reshape(x.shape)


def pykan_layer(in_features: int, out_features: int) -> nn.Module | None:
    """pykan's layer of 5 intervals and order 3, if pykan and what it imports (pandas, sympy, …) are installed."""
    path = sys.path.copy()
    sys.path = [place for place in path if Path(place).resolve() != HERE]  # its module has the name of this file
    try:
        from kan.KANLayer import KANLayer
    except ImportError:
        return None
    finally:
        sys.path = path
    layer = KANLayer(in_features, out_features, num=5, k=3)
    forward = layer.forward
    layer.forward = lambda x: forward(x)[0]
    return layer


# --- The four parts ---------------------------------------------------------------------------------------------------


def layers_to_compare(in_features: int, out_features: int) -> dict[str, nn.Module]:
    """Every layer by name; zoo's spline layer has the weights of the recursion's, and gives the same."""
    torch.manual_seed(0)
    theirs = CoxDeBoorKAN(in_features, out_features)
    ours = KANLinear(in_features, out_features, basis="spline", grid_size=5, order=3)
    with torch.no_grad():
        ours.weight[:, 0] = theirs.base
        ours.weight[:, 1:] = theirs.weight().transpose(1, 2)
        x = torch.randn(64, in_features)
        error = (ours(x) - theirs(x)).abs().max() / theirs(x).abs().max()
    if error > 1e-5:
        raise RuntimeError(f"the spline layers differ by {error:.1e}, so the times would not be of the same function")
    found = {"nn.Linear": nn.Linear(in_features, out_features), "zoo spline": ours, "efficient-kan": theirs}
    found["fast-kan"] = GaussianKAN(in_features, out_features)
    if (layer := pykan_layer(in_features, out_features)) is not None:
        found["pykan"] = layer
    others = [name for name in zoo.list_blocks("basis") if name != "spline"]
    return found | {f"zoo {name}": KANLinear(in_features, out_features, basis=name) for name in others}


def bench_layers(rounds: int, rows: int = 1024, width: int = 256) -> None:
    """The table of layers."""
    layers, x = layers_to_compare(width, width), torch.rand(rows, width) * 2 - 1
    trained = lambda layer: [p for p in layer.parameters() if p.requires_grad and p.numel()]
    forwards = medians({name: forward_of(layer, x) for name, layer in layers.items()}, rounds)
    steps = {}
    for name, layer in layers.items():
        used = [p for p in trained(layer) if torch.autograd.grad(layer(x).sum(), p, allow_unused=True)[0] is not None]
        steps[name] = step_of(layer, x, used)
    steps = medians(steps, rounds)
    print(
        "| layer | forward, ms | with backward, ms | zoo spline is faster by | with backward |\n|---|---|---|---|---|"
    )
    for name in layers:
        ratios = forwards[name] / forwards["zoo spline"], steps[name] / steps["zoo spline"]
        print(
            f"| {name} | {1e3 * forwards[name]:.2f} | {1e3 * steps[name]:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} |",
            flush=True,
        )


def bench_memory(rounds: int, rows: int = 1024, width: int = 256) -> None:
    """The table of memory."""
    layers, x = layers_to_compare(width, width), torch.rand(rows, width) * 2 - 1
    names = ("zoo spline", "efficient-kan", "fast-kan", *(["pykan"] if "pykan" in layers else []))
    print("| layer | peak of a training step, MB | zoo spline / this |\n|---|---|---|")
    peaks = {}
    for name in names:
        parameters = [p for p in layers[name].parameters() if p.requires_grad]
        grad_of = lambda y, parameters=parameters: torch.autograd.grad(y.sum(), parameters, allow_unused=True)
        step = lambda name=name, grad_of=grad_of: grad_of(layers[name](x.clone().requires_grad_()))
        peaks[name] = peak_bytes(step, CPU)
    for name, peak in peaks.items():
        print(f"| {name} | {peak / 1e6:.0f} | {peaks['zoo spline'] / peak:.2f} |")
    layer, x = KANLinear(512, 512), torch.rand(65536, 512) * 2 - 1
    peak = peak_bytes(lambda: layer(x), CPU)
    print(f"\nOne forward pass of 65,536 rows, 512 -> 512, kept for a backward pass: {peak / 1e9:.2f} GB.")


def bench_rational(rounds: int) -> None:
    """The table of the rational function, on tokens of 197 positions."""
    print("| batch | channels | precision | mode | pass | rational / GELU | plain torch / rational |")
    print("|---|---|---|---|---|---|---|")
    for batch, channels in ((8, 192), (8, 768), (64, 192), (64, 768)):
        for dtype in (torch.float32, torch.bfloat16):
            x, layer = torch.randn(batch * 197, channels).to(dtype), zoo.blocks.GroupRational(channels)
            parameters = [layer.numerator, layer.denominator]
            torch.compiler.reset()  # it gives up on a function that it has compiled for many shapes
            compiled = {
                "rational": torch.compile(layer, dynamic=False),
                "gelu": torch.compile(nn.GELU(), dynamic=False),
            }
            plain = lambda x, layer=layer: plain_rational(x, layer.numerator, layer.denominator)
            eager = {"rational": layer, "gelu": nn.GELU(), **({"plain": plain} if dtype is torch.float32 else {})}
            for mode, functions in (("eager", eager), ("compiled", compiled)):
                for what in ("forward", "with backward"):

                    def call(name: str, functions=functions, what=what, x=x, parameters=parameters):
                        if what == "forward":
                            return forward_of(functions[name], x)
                        return step_of(functions[name], x, [] if name == "gelu" else parameters)

                    def slower(one: str, other: str, call=call) -> float:
                        # Two at a time: the plain spelling throws all else out of the caches.
                        took = medians({name: call(name) for name in (one, other)}, rounds)
                        return took[one] / took[other]

                    against = f"{slower('plain', 'rational'):.1f}" if "plain" in functions else ""
                    cells = (batch, channels, "fp32" if dtype is torch.float32 else "bf16", mode, what)
                    print(
                        "|",
                        *(f"{cell} |" for cell in cells),
                        f"{slower('rational', 'gelu'):.2f} | {against} |",
                        flush=True,
                    )


def bench_training(rounds: int, batch: int = 8) -> None:
    """The table of training steps: forward, cross entropy, backward, AdamW."""
    x, target = torch.randn(batch, 3, 224, 224), torch.randint(1000, (batch,))

    def step(name: str, compiled: bool) -> Callable[[], object]:
        model = zoo.create_model(name).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        run = torch.compile(model) if compiled else model

        def call() -> None:
            optimizer.zero_grad()
            F.cross_entropy(run(x), target).backward()
            optimizer.step()

        return call

    print("| mode | KAT-T / DeiT-T |\n|---|---|")
    for compiled in (False, True):
        names = ("kat_tiny_patch16_224", "deit_tiny_patch16_224")
        ours, theirs = medians({name: step(name, compiled) for name in names}, rounds).values()
        print(f"| {'compiled' if compiled else 'eager'} | {ours / theirs:.2f} |", flush=True)


def bench_compiled(rounds: int, tokens: int = 8 * 197, dim: int = 192) -> None:
    """The table of mixers compiled against themselves in eager mode."""
    mixers = {"mlp": "mlp", "gr_kan": "gr_kan"}
    mixers |= {f"kan, {name}": f"kan(basis='{name}', hidden={dim})" for name in zoo.list_blocks("basis")}
    print("| mixer | precision | pass | eager, ms | compiled / eager |\n|---|---|---|---|---|")
    for name, slot in mixers.items():
        for dtype, precision in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
            torch.compiler.reset()
            mixer, x = zoo.create_block("channel_mixer", slot, dim).to(dtype), torch.rand(tokens, dim).to(dtype) * 2 - 1
            runs = {"eager": mixer, "compiled": torch.compile(mixer, dynamic=False)}
            for what in ("forward", "with backward"):
                parameters = [p for p in mixer.parameters() if p.requires_grad]
                calls = {
                    mode: forward_of(run, x) if what == "forward" else step_of(run, x, parameters)
                    for mode, run in runs.items()
                }
                took = medians(calls, rounds)
                ratio = took["compiled"] / took["eager"]
                print(f"| {name} | {precision} | {what} | {1e3 * took['eager']:.2f} | {ratio:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="part", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {args.threads} threads, {args.rounds} rounds"
    )
    for part in args.parts:
        print(f"\n### {part}\n")
        globals()[f"bench_{part}"](args.rounds)


if __name__ == "__main__":
    main()
