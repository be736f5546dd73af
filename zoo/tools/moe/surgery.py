"""Surgery on the mixtures of experts of a model: removing experts, adding experts, adding tasks.

All change a model in place, its config too, so that it saves and loads as what it has become. Parameters are exchanged:
build the optimizer afterwards.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from zoo.blocks.moe.dispatch import Dropless
from zoo.blocks.moe.routers.remap import Remap
from zoo.blocks.moe.routers.sigmoid import Sigmoid
from zoo.blocks.moe.routers.task import Task
from zoo.blocks.moe.routers.top_k import TopK
from zoo.skeletons.model import Model
from zoo.slots import Slot, build_block, parse_slot
from zoo.tools.moe.mixtures import Place, Places, blocks_of_model, find_mixtures
from zoo.tools.moe.record import Batches, Choices, choices_of, pairs

TaskBatches = Batches | Mapping[int, Batches]  # for every task the same, or those of each by its number

# --- Fewer experts ----------------------------------------------------------------------------------------------------


def prune_experts(
    model: nn.Module, batches: TaskBatches, *, at: Places = None, every: int | None = None, task: int | None = None
) -> dict[int | str, list[int]]:
    """Remove the experts that no token of a data set reaches; the logits on these data stay what they were.

    Where a token's choices and weights do not depend on experts that it does not choose (`top_k` with the softmax after
    the choice, `sigmoid`), the router forgets them, and tokens of other data that would have chosen one take the next.
    Any other router keeps its logits, and such tokens do without that choice (see `Remap`). Where the samples of a
    batch compete for experts, "these data" are these batches.

    A model whose routers know tasks loses the experts that no task reaches. With `task` it becomes a model of that task
    alone, and loses all that this task does not reach.

    Args:
        model: A model of `zoo.create_model`; it runs in eval mode and is changed in place.
        batches: Inputs; or a list or loader of them, or of tuples that begin with them. Of several tasks all run on
            these, unless it is a mapping with the data of each task by its number.
        at, every: Blocks, as in `zoo.upcycle`; by default all with a mixture.
        task: The task to keep, by its number; it is task 0 then, and the others' gates are gone.

    Returns:
        For each mixture from which experts were removed, their numbers: by the number of the block whose channel mixer
        it is, or by its name where it has another place, as a mixture over tokens has.

    Example:
        >>> import zoo
        >>> model = zoo.create_model("vit_test", channel_mixer={"at": {-1: "moe(num_experts=8, top_k=1)"}})
        >>> removed = prune_experts(model, torch.randn(1, 3, 32, 32))
        >>> model.blocks[2].channel_mixer.num_experts == 8 - len(removed.get(2, []))
        True

    Source: zoo's own rule.
    Differs: nothing to differ from.

    Raises:
        TypeError: It is no model of zoo.
        ValueError: Choices were dropped for want of room, which depends on the number of experts; there is no data; or
            a block or a task is not there, or has no mixture or data. The model is as it was.
    """
    places = find_mixtures(model, at, every)
    if task is not None:
        find_mixtures(model)  # raises what would stop the work half way
    reached: dict[Place, Tensor] = {}
    for inputs, number in _runs(model, batches, task):
        seen = choices_of(model, inputs, number)
        for place in places:
            choices = seen[place.name]
            if choices.dropped:
                raise ValueError(
                    f"block {place.block} dropped choices of these data, and fewer experts would drop others; give its "
                    "dispatch a larger eval_factor, or dropless"
                )
            reached[place] = choices.counts(len(inputs)).sum(0) + reached.get(place, 0)
    removed = {}
    for place, counts in reached.items():
        left = counts.nonzero().flatten().tolist()
        if 0 < len(left) < len(counts):
            removed[place.key] = sorted(set(range(len(counts))) - set(left))
            _remove(model, place, left, seen[place.name].tokens.shape[1])
    if task is not None:
        keep_tasks(model, [task])
    return removed


def _runs(model: nn.Module, batches: TaskBatches, task: int | None) -> Iterator[tuple[Tensor, int | None]]:
    """The inputs to look at, each with the number of the task that runs on them; None for a model without tasks."""
    named = isinstance(batches, Mapping)
    tasks = [None]
    if task is not None or named or any(isinstance(module, Task) for module in model.modules()):
        tasks = [*range(count_tasks(model))]
    if named and (task is not None or sorted(batches) != tasks):
        remedy = "the data of that task alone" if task is not None else f"data for each of the tasks {tasks}"
        raise ValueError(f"batches has data for the tasks {sorted(batches)}; give {remedy}")
    if task is not None:
        tasks = [check_task(task, len(tasks))]
    for part, numbers in [(part, [i]) for i, part in batches.items()] if named else [(batches, tasks)]:
        for inputs, _ in pairs(part):
            yield from ((inputs, number) for number in numbers)


def _remove(model: Model, place: Place, left: list[int], width: int) -> None:
    """Keep only these experts of a mixture over tokens of this width."""
    mixture, router = place.mixture, place.router(model)
    if not _forget(mixture.router, left):
        options = {"router": str(router), "scored": mixture.num_experts, "kept": tuple(left)}
        router = Slot("remap", options)
        mixture.router = _remap(model, router, width, len(left), mixture.router)
    _set_experts(model, place, left, router)


def _forget(router: nn.Module, left: list[int]) -> bool:
    """Take all experts but these out of a router, if that changes nothing for tokens that chose among these."""
    if type(router) is not Sigmoid and not (type(router) is TopK and router.softmax == "after"):
        return False
    gate = router.gate
    gate.weight = nn.Parameter(gate.weight.detach()[left].clone(), gate.weight.requires_grad)
    router.num_experts = gate.out_features = len(left)
    if isinstance(router, Sigmoid):
        router.bias = router.bias[left].clone()
    return True


# --- More experts -----------------------------------------------------------------------------------------------------


def add_expert(
    model: nn.Module,
    x: Tensor,
    *,
    of: int | None = None,
    at: Places = None,
    every: int | None = None,
    task: int | None = None,
) -> dict[int | str, int]:
    """Add an expert to mixtures by splitting the one with the most tokens; the logits stay what they were.

    The new expert is a copy of the other, and takes those of its tokens that lie on one side of a plane: through the
    mean of the tokens that chose the other, across the direction in which these vary most. The router goes on as before
    and does not learn which of the two; both are in use at once, and in training each learns from its own tokens.

    Args:
        model: A model of `zoo.create_model`; it runs in eval mode and is changed in place.
        x: Inputs, of which the tokens are taken.
        of: The expert to split; by default, in each mixture, the one that the most tokens of `x` choose.
        at, every: Blocks, as in `zoo.upcycle`; by default all with a mixture.
        task: Number of the task that runs on `x`, where the routers know tasks.

    Returns:
        For each mixture, named as by `prune_experts`, the expert that was split. The new one is the last.

    Example:
        >>> import zoo
        >>> model = zoo.create_model("vit_test", channel_mixer={"at": {-1: "moe(num_experts=4)"}})
        >>> add_expert(model, torch.randn(2, 3, 32, 32), of=1), model.blocks[2].channel_mixer.num_experts
        ({2: 1}, 5)

    Source: the plane: Boley, "Principal Direction Divisive Partitioning" (Data Mining and Knowledge Discovery 2, 1998);
        that copies of an expert leave a network as it was: Chen et al., "Net2Net" (arXiv 1511.05641).
    Differs: zoo's own combination.

    Raises:
        TypeError: It is no model of zoo.
        ValueError: Choices may be dropped, an expert has fewer than two tokens, or a block is not there or has no
            mixture. The model is as it was.
    """
    places, planes, seen = find_mixtures(model, at, every), {}, choices_of(model, x, task)
    for place in places:
        if not isinstance(place.mixture.dispatch, Dropless):
            raise ValueError(
                f"block {place.block} may drop choices, and more experts would drop others; make its dispatch dropless"
            )
        planes[place] = _plane(seen[place.name], of, place.block)
    for place, (source, plane, offset) in planes.items():
        old, named, count = place.mixture.router, place.router(model), place.mixture.num_experts + 1
        options = named.options if named.name == "remap" else {"router": str(named)}
        router = Slot("remap", {**options, "split": (*options.get("split", ()), source)})
        new = _remap(model, router, len(plane), count, old.router if isinstance(old, Remap) else old)
        if isinstance(old, Remap) and old.split:
            new.planes[:-1], new.offsets[:-1] = old.planes, old.offsets
        new.planes[-1], new.offsets[-1] = plane, offset
        place.mixture.router = new
        _set_experts(model, place, [*range(count - 1), source], router)
    return {place.key: source for place, (source, _, _) in planes.items()}


def _plane(choices: Choices, of: int | None, block: int) -> tuple[int, Tensor, Tensor]:
    """The expert to split, and the plane through the mean of its tokens across their principal direction."""
    counts = choices.counts(1)[0]
    if of is not None and not 0 <= of < len(counts):
        raise ValueError(f"block {block} has no expert {of}; it has 0 to {len(counts) - 1}")
    source = int(counts.argmax()) if of is None else of
    tokens = choices.tokens[(choices.experts == source).any(1)].float()
    if len(tokens) < 2:
        raise ValueError(f"expert {source} of block {block} got {len(tokens)} tokens of x; it takes 2 to split them")
    mean = tokens.mean(0)
    centred = tokens - mean
    direction = torch.linalg.eigh(centred.t() @ centred).eigenvectors[:, -1]
    return source, direction, mean @ direction


# --- Tasks ------------------------------------------------------------------------------------------------------------


def add_task(model: nn.Module, *, like: int | None = None) -> int:
    """Add a task to every router of a model that knows tasks; what the model gives for the others stays bit by bit.

    Args:
        model: A model of `zoo.create_model`; it is changed in place.
        like: The task whose gates the new one begins with, as a copy; by default they are initialised anew.

    Returns:
        The number of the new task.

    Example:
        >>> import zoo
        >>> model = zoo.create_model("m3vit_test")
        >>> new = add_task(model, like=1)
        >>> new, model(torch.randn(1, 3, 32, 32), task=new).shape
        (2, torch.Size([1, 10]))

    Source: tasks that share experts and have gates of their own: Chen et al., "Mod-Squad: Designing Mixture of Experts
        As Modular Multi-Task Learners" (arXiv 2212.08066); Liang et al., "M3ViT" (arXiv 2210.14793).
    Differs: nothing else of the model is frozen or trained; that is for the training to say.

    Raises:
        TypeError: It is no model of zoo.
        ValueError: It has no router that knows tasks, or `like` is none of its tasks.
    """
    blocks_of_model(model)
    tasks = count_tasks(model)
    if like is not None:
        check_task(like, tasks)
    keep_tasks(model, [*range(tasks), 0 if like is None else like])
    if like is None:
        for module in model.modules():
            if isinstance(module, Task):
                module.reset_task(tasks)
    return tasks


def count_tasks(model: nn.Module) -> int:
    """Number of the tasks that the routers of a model know.

    Raises:
        ValueError: No router knows tasks, or they know different numbers of them.
    """
    counts = {module.tasks for module in model.modules() if isinstance(module, Task)}
    if not counts:
        raise ValueError(
            f"{type(model).__name__} has no router that knows tasks; build it with router='task(tasks=…)' in its moe"
        )
    if len(counts) > 1:
        raise ValueError(f"the routers know different numbers of tasks, {sorted(counts)}; they must agree")
    return counts.pop()


def check_task(task: int, tasks: int) -> int:
    """The number of a task, if there is one of that number."""
    if isinstance(task, bool) or not isinstance(task, int) or not 0 <= task < tasks:
        raise ValueError(f"task is {task!r}; the model has {tasks} tasks, numbered from 0")
    return task


def keep_tasks(model: Model, chosen: list[int]) -> None:
    """Let every router that knows tasks know these, in this order, and note it."""
    for place in find_mixtures(model):
        place.note(model, {"router": str(_with_tasks(place.router(model), place.mixture.router, chosen))})


def _with_tasks(slot: Slot, router: nn.Module, chosen: list[int]) -> Slot:
    """The slot of a router that knows these tasks from now on."""
    if isinstance(router, Remap):
        inner = _with_tasks(parse_slot(slot.options.get("router", "top_k")), router.router, chosen)
        return Slot(slot.name, {**slot.options, "router": str(inner)})
    if not isinstance(router, Task):
        return slot
    router.keep_tasks(chosen)
    return Slot(slot.name, {**slot.options, "tasks": len(chosen)})


# --- Routers and experts ----------------------------------------------------------------------------------------------


def _remap(model: Model, slot: Slot, width: int, num_experts: int, inner: nn.Module) -> Remap:
    """A `Remap` by its slot around a router of tokens of this width."""
    like = next(model.parameters())
    remap = build_block("router", slot, width, num_experts, inner.top_k, device=like.device, dtype=like.dtype)
    remap.router = inner
    return remap.train(inner.training)


def _set_experts(model: Model, place: Place, chosen: list[int], router: Slot) -> None:
    """Keep, or copy, experts by their numbers, and note what the mixture has become."""
    mixture, options = place.mixture, {"num_experts": len(chosen), "router": str(router)}
    mixture.experts.keep(chosen)
    mixture.experts.active_fraction = mixture.router.active / mixture.num_experts
    experts = place.slot(model).options.get("experts")
    if isinstance(experts, (list, tuple)):
        options["experts"] = [experts[k % len(experts)] for k in chosen]
    place.note(model, options)
