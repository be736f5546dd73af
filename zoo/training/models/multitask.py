"""Several tasks on one trunk: a model with a head a task, and the batches of all of them in turn."""

import copy
import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from zoo.blocks.base import Aux
from zoo.checks import check_path, printable, shown, unknown
from zoo.create import create_model
from zoo.skeletons.model import DecayMarks
from zoo.tools.moe.record import Batches, pairs
from zoo.tools.moe.surgery import add_task, count_tasks, keep_tasks, prune_experts
from zoo.training.heads.base import Head
from zoo.training.models.parts import Parts, Saved, unallocated
from zoo.training.recipe.reading import compose
from zoo.training.recipe.schema import build, plain
from zoo.weights import load_alike, remap

PARTS = Parts("MultiTask", "trunk", "heads.safetensors")


class MultiTask(DecayMarks):
    """A model of zoo as the trunk of several tasks, with a head for each.

    Where the trunk's mixtures have routers that know tasks (``router='task(tasks=2)'``, as in M3ViT), each head says
    which of these tasks is its own, and then a task runs its own experts and no others.

    Args:
        trunk: Name of a model, as `zoo.create_model` takes it.
        heads: The head of each task by the task's name.
        saved: Weights of the heads and the name of their file, which `open` gives; by default they are initialised.
        kwargs: Other arguments of `zoo.create_model`.

    Attributes:
        trunk: The model, without a classifier.
        heads: A module a task.
        config: What was given as `heads`, with the levels of the trunk as they are counted from the start.

    Shape: ``(B, in_chans, H, W)``, ``task`` its name ``-> (B, num_classes)`` or ``(B, num_classes, H, W)``.

    Example:
        >>> from zoo.training import Classifier, Dense
        >>> heads = {"digit": Classifier(num_classes=10, task=0), "ink": Dense(num_classes=1, width=8, task=1)}
        >>> import torch
        >>> model = MultiTask("m3vit_test", heads, in_chans=1)
        >>> model(torch.randn(2, 1, 32, 32), task="ink").shape
        torch.Size([2, 1, 32, 32])

    Source: a trunk whose experts are shared by tasks and chosen by gates of their own, and from which the model of one
        task can be taken: Liang et al., "M3ViT" (arXiv 2210.14793); Chen et al., "Mod-Squad: Designing Mixture of
        Experts As Modular Multi-Task Learners" (arXiv 2212.08066).
    Differs: the heads are zoo's own; which experts a task concentrates on follows from the losses of the trunk's
        routers, not from Mod-Squad's mutual information.

    Raises:
        ValueError: There is no head, or a head does not fit the trunk.
    """

    def __init__(self, trunk: str, heads: Mapping[str, Head], *, saved: Saved | None = None, **kwargs):
        super().__init__()
        if "num_classes" in kwargs:
            raise ValueError("num_classes is said by each head: leave it out of the trunk's arguments")
        if not heads:
            raise ValueError("a model for several tasks needs a head for each: heads is empty")
        self.trunk = create_model(trunk, num_classes=0, **kwargs)
        self.heads, self.config = nn.ModuleDict(), {}
        if saved is None:
            for name, head in heads.items():
                self._put(name, head)
        else:
            self._put_saved(heads, *saved)

    @property
    def input_size(self) -> tuple[int, ...]:
        """(channels, height, width) of the images that the trunk was made for."""
        return self.trunk.input_size

    def forward(self, x: Tensor, return_aux: bool = False, task: str | None = None) -> Tensor | tuple[Tensor, Aux]:
        """What the head of a task gives.

        Args:
            x: Images ``(B, in_chans, H, W)``.
            return_aux: Return ``(outputs, aux)``, with the auxiliary outputs of the trunk's mixers.
            task: Name of the task; only a model of a single task knows it by itself.
        """
        name = self._named(task)
        head, module = self.config[name], self.heads[name]
        keywords = {} if head.task is None else {"task": head.task}
        outputs, aux = head.outputs(module, self.trunk, x, keywords)
        return (outputs, aux) if return_aux else outputs

    # --- Tasks and experts --------------------------------------------------------------------------------------------

    def only(self, task: str, batches: Batches | None = None) -> "MultiTask":
        """A model of one task alone, as a copy: its head, its gates and, by the data given, its experts.

        Args:
            task: Name of the task.
            batches: Inputs, or a list or loader of them. Experts that no token of these reaches are removed, and the
                outputs on these data stay what they are. None to keep all experts.
        """
        name = self._named(task)
        alone, number = copy.deepcopy(self), self.config[name].task
        for left_out in self.config.keys() - {name}:
            del alone.heads[left_out], alone.config[left_out]
        if batches is not None:
            prune_experts(alone.trunk, batches, task=number)
        elif number is not None:
            keep_tasks(alone.trunk, [number])
        if number is not None:
            alone.config[name] = dataclasses.replace(alone.config[name], task=0)
        return alone

    def prune_experts(self, batches: Mapping[str, Batches]) -> dict[int | str, list[int]]:
        """Remove, in place, the experts that no task reaches; the outputs on these data stay what they were.

        Args:
            batches: Data of every task by its name, as `zoo.prune_experts` takes them.

        Returns:
            The numbers of the experts removed, as from `zoo.prune_experts`.

        Raises:
            ValueError: The data of a task are missing, or as `zoo.prune_experts`.
        """
        if batches.keys() != self.config.keys():
            raise ValueError(f"batches has data of {sorted(batches)}; give those of every task: {sorted(self.config)}")
        parts: dict[int | None, Iterable] = {}
        for name, head in self.config.items():  # heads may share a task of the trunk
            parts[head.task] = itertools.chain(parts.get(head.task, ()), pairs(batches[name]))
        return prune_experts(self.trunk, parts.get(None, parts))

    def add_task(self, name: str, head: Head, *, like: str | None = None) -> None:
        """Add a task, in place; what the model gives for the others stays bit by bit.

        Args:
            name: Name of the task.
            head: Its head. Where the trunk's routers know tasks and the head's `task` is None, they get one more.
            like: Name of the task whose gates the new one begins with; by default they are initialised anew.

        Raises:
            ValueError: There is such a task already, no task is called `like`, or it is given where no gates are added,
                or the head does not fit the trunk.
        """
        source = None if like is None else self.config[self._named(like)].task
        self._check_name(name)
        gates = head.task is None and self._tasks() is not None
        if like is not None and not gates:
            raise ValueError(f"{name!r} gets no gates of its own to begin as those of {like!r}: leave like out")
        if gates:
            self._make(name, dataclasses.replace(head, task=0))  # raises what would stop the work half way
            head = dataclasses.replace(head, task=add_task(self.trunk, like=source))
        self._put(name, head)

    def _named(self, task: str | None) -> str:
        """The name of the task asked for."""
        if task is None and len(self.config) == 1:
            return next(iter(self.config))
        if task not in self.config:
            raise ValueError(unknown(f"task {task!r}", str(task), self.config, "tasks"))
        return task

    def _tasks(self) -> int | None:
        """Number of the tasks that the trunk's routers know."""
        return count_tasks(self.trunk) if "task" in self.trunk.keywords else None

    def _check_name(self, name: str) -> None:
        if not re.fullmatch(r"[a-z]\w*", name) or hasattr(nn.ModuleDict, name):
            raise ValueError(f"a task cannot be called {shown(name)}: take small letters, figures and _, such as 'ink'")
        if name in self.config:
            raise ValueError(f"there is a task {name!r} already: choose another name")

    def _put(self, name: str, head: Head) -> None:
        self._check_name(name)
        head, module = self._make(name, head)
        weight = next(self.trunk.parameters())
        self.heads[name] = module.to(weight.device, weight.dtype).train(self.training)
        self.config[name] = head

    def _put_saved(self, heads: Mapping[str, Head], state: Mapping[str, Tensor], where: str) -> None:
        """Put the heads that a file says, each compared with its weights there before the next is made."""
        weight, parts = next(self.trunk.parameters()), {name: {} for name in (None, *heads)}
        for key, value in state.items():
            name = key.partition(".")[0]
            parts[name if name in heads else None][key] = value
        remap(parts[None], {}, (), where)  # raises for what belongs to no head
        for name, head in heads.items():
            self._check_name(name)
            with unallocated(where):
                head, module = self._make(name, head)
                named_head = nn.ModuleDict({name: module.to(dtype=weight.dtype)})  # errors say the file's keys
            load_alike(named_head, parts[name], where, weight.device)
            self.heads.update(named_head)
            self.config[name] = head

    def _make(self, name: str, head: Head) -> tuple[Head, nn.Module]:
        """The head of a task, checked and with the levels counted from the start, and its module."""
        tasks = self._tasks()
        if tasks is None and head.task is not None:
            raise ValueError(f"head {name}: task is {head.task}, but no router of the trunk knows tasks: leave it out")
        if tasks is not None and (head.task is None or not 0 <= head.task < tasks):
            raise ValueError(f"head {name}: task is {head.task}; the trunk's routers know the tasks 0 to {tasks - 1}")
        return head.make(self.trunk, f"head {name}")

    # --- Files --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write a folder of which `MultiTask.open` makes the same model; see `Parts.save` for what stays in it.

        The trunk goes into a folder of its own, which `zoo.create_model("local-dir:...")` takes too.
        """
        PARTS.save(folder, self.trunk, self.heads, {"heads": json.dumps(plain(self.config))})

    @classmethod
    def open(cls, folder: Path | str) -> "MultiTask":
        """The model that `save` wrote.

        Raises:
            TypeError: The folder is no path.
            FileNotFoundError: The folder holds no model for several tasks.
            ValueError: A file in it cannot be what `save` wrote; nothing that its header asks for is allocated before.
        """
        check_path("folder", folder, "a saved model")
        where = printable(Path(folder) / PARTS.heads)

        def make(trunk: str, state: dict[str, Tensor], metadata: dict[str, str]) -> MultiTask:
            return cls(trunk, build(dict[str, Head], compose(metadata.get("heads", ""), where)), saved=(state, where))

        return PARTS.open(folder, make)
