"""The section of a recipe that says how the loop runs."""

import os
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from zoo.checks import Interval
from zoo.training.engine.best import Best
from zoo.training.engine.drop_path import DropPath
from zoo.training.recipe.schema import LONGEST, Count, Duration, Lasting, Length, Positive, Seed
from zoo.training.recipe.section import Misfit, Section

FEW = 64  # threads that every machine can start, however few processors it has


@dataclass(frozen=True)
class Train(Section):
    """The loop."""

    renamed: ClassVar[dict[str, str]] = {"select": "phases.select"}
    duration: Length  # of the whole training
    batch_size: Count  # of the whole run, over all processes
    eval_every: Length  # how often the validation split is measured
    checkpoint_every: Length  # how often what a run goes on from is written, as it is with every new best model
    seed: Seed = 0  # of the weights, the order of the data and whatever else is random
    # bf16, fp16: autocast, weights stay in fp32; with fp16 the loss is scaled.
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    # Equal parts that a process computes its share of a batch in, one after another, to need less memory.
    accumulate: Annotated[int, Interval(1, 65536)] = 1
    grad_clip: Positive | None = None  # largest norm of all gradients together; null: no clipping
    # Decay of an average of the weights, which is then what is evaluated and saved; null: no average.
    ema: Annotated[float, Interval(above=0, below=1)] | None = None
    log_every: Length = Duration(10, "st")  # how often the loss is written down
    # When the model enters its phases, such as {select: 5ep}: those that its modules know, see `zoo.blocks.protocol`.
    phases: dict[str, Annotated[Duration, Lasting(0, LONGEST)]] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()  # modules or parameters that are not trained, such as stem, blocks.0, !*.norm.*
    linear_probe: bool = False  # whether the classifier alone is trained, on features as in evaluation
    drop_path: DropPath | None = None  # how the rates of stochastic depth change; null: they do not
    best: Best | None = None  # what the best model, which is kept beside the last, is told by; null: none is kept
    compile: bool = False  # whether torch.compile makes a program of the model
    grad_checkpointing: bool = False  # whether blocks compute again in the backward pass, which takes less memory
    expert_parallel: bool = False  # whether several processes have a part each of every mixture's experts
    channels_last: bool = False  # whether images and convolutions lie in memory with the channels last
    # Of torch on a CPU; with 1, a tiny model is not slowed down by whatever else runs there. null: as torch has it.
    threads: Annotated[int, Interval(1, 1024)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulate:
            raise Misfit(
                f"accumulate is {self.accumulate}; it must divide batch_size, {self.batch_size}, which is that of all "
                "parts together",
                "accumulate",
            )
        if self.compile and self.drop_path is not None:
            raise Misfit(
                "drop_path changes numbers that torch.compile takes for constants, so it would compile anew in every "
                "step: set compile to false",
                "compile",
            )

    def check_threads(self) -> None:
        """Check that this machine can start the threads: each takes memory and a place in the system's table.

        Raises:
            ValueError: They are many, and more than there are processors; torch would end the process.
        """
        most = max(os.cpu_count() or 1, FEW)
        if (self.threads or 1) > most:
            raise ValueError(f"train.threads is {self.threads}; on this machine it must be at most {most}, or null")
