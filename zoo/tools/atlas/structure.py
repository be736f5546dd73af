"""What a drawing of a model shows: the chain of its parts, and each kind of block in it, from its settled slots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from zoo.skeletons.blocks import BlockModel
from zoo.skeletons.vectors import Stack


@dataclass(frozen=True)
class Box:
    """One operation.

    Attributes:
        role: What it is in a model, such as ``norm`` or ``token_mixer``: it decides the colour.
        text: Its slot, as one writes it.
    """

    role: str
    text: str


@dataclass(frozen=True)
class Branch:
    """Boxes one after another; if it is residual, added to a shortcut, which may have a factor of its own."""

    boxes: tuple[Box, ...]
    shortcut: Box | None = None
    residual: bool = True


@dataclass(frozen=True)
class Block:
    """A kind of block, and where it stands in the model."""

    places: str
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Structure:
    """A model: its parts from the input to the output, and the kinds of its blocks."""

    chain: tuple[Box, ...]
    blocks: tuple[Block, ...] = ()


def structure_of(model: nn.Module) -> Structure:
    """What the drawing of a model shows.

    Example:
        >>> import zoo
        >>> found = structure_of(zoo.create_model("poolformer_s12", device="meta"))
        >>> [box.text for box in found.chain[:3]]
        ['image, 3 x 224 x 224', 'conv(kernel_size=7, stride=4, padding=2)', 'stage 1: 2 blocks, 64 channels, 1/4']
        >>> [box.text for box in found.blocks[0].branches[0].boxes]
        ['groupnorm', 'pool', 'scale, 1e-05 at first']
    """
    if isinstance(model, BlockModel):
        return _of_blocks(model)
    if isinstance(model, Stack):
        return _of_layers(model)
    parts = [Box("other", f"{name}: {type(part).__name__}") for name, part in model.named_children()]
    return Structure((Box("end", _input(getattr(model, "input_size", None) or ())), *parts, Box("end", "outputs")))


def _of_layers(model: Stack) -> Structure:
    config = model.config
    widths = [config["in_chans"], *config["hidden"], config["num_classes"]]
    chain = [Box("end", f"vector of {widths[0]}")]
    for number, (slot, before, after) in enumerate(zip(config["layer"], widths, widths[1:], strict=False)):
        linear = slot.name == "none"
        chain.append(Box("channel_mixer", f"{'linear' if linear else slot}: {before} to {after}"))
        if number < len(widths) - 2:
            chain += [Box("act", str(config["act"]))] if linear else []
            chain += [Box("norm", str(config["norm"][0]))] if config["norm"][0].name != "none" else []
    return Structure((*chain, Box("end", f"{widths[-1]} output{'s' * (widths[-1] != 1)}")))


def _of_blocks(model: BlockModel) -> Structure:
    config = model.config
    single = "depth" in config
    depths, dims = ([config["depth"]], [config["dim"]]) if single else (config["depths"], config["dims"])
    kinds, firsts = _kinds(model, depths), [sum(depths[:stage]) for stage in range(len(depths))]
    chain = [Box("end", _input(model.input_size)), *_slots(config, "stem")]
    if "embed" in config and getattr(model, "tokens", None) is not None and model.tokens.state_dict():
        chain += _slots(config, "embed")
    for stage, depth in enumerate(depths):
        chain += _slots(config, "downsample", stage - 1) if stage else []
        past = _slots(config, "shortcut") if stage > 1 else []
        chain += [Box("shortcut", f"+ shortcuts: {box.text}") for box in past]
        name = "" if single else f"stage {stage + 1}: "
        level = sum(depths[: stage + 1]) - 1 if single else stage
        chain.append(
            Box("stage", f"{name}{depth} block{'s' * (depth != 1)}, {dims[stage]} channels{_side(model, level)}")
        )
    norm, pool = _slots(config, "final_norm", role="norm"), config.get("global_pool")
    pooled = [Box("pool", f"pool: {pool}")] if pool else []
    chain += [*pooled, *norm] if config.get("pool_first") else [*norm, *pooled]
    outputs = config.get("num_classes")
    chain += _slots(config, "head") if outputs else []
    chain.append(Box("end", f"{outputs} outputs" if outputs else "features"))
    blocks = [Block(_places(numbers, firsts, depths), branches) for branches, numbers in kinds.items() if any(branches)]
    return Structure(tuple(chain), tuple(blocks))


def _input(size: Sequence[int]) -> str:
    return f"{'image' if len(size) == 3 else 'input'}{', ' * bool(size)}{' x '.join(map(str, size))}"


def _side(model: BlockModel, level: int) -> str:
    """How much smaller than the image a map of features is, of models that have such."""
    info = getattr(model, "feature_info", None)
    return f", 1/{info[level]['reduction']}" if info else ""


def _slots(config: Mapping[str, Any], name: str, number: int = 0, role: str | None = None) -> list[Box]:
    """A box of a slot; none where the model has no such slot, or nothing in it."""
    text = str(config[name][number]) if name in config else "none"
    return [] if text == "none" else [Box(role or name, text)]


def _kinds(model: BlockModel, depths: Sequence[int]) -> dict[tuple[Branch, ...], list[int]]:
    """The numbers of the blocks of each kind, by what such a block consists of."""
    config, kinds = model.config, {}
    for stage, depth in enumerate(depths):
        scales = [_scale(config.get(name), stage) for name in ("layer_scale", "res_scale")]
        for number in range(sum(depths[:stage]), sum(depths[:stage]) + depth):
            token, channel, norm = (config[name][number] for name in ("token_mixer", "channel_mixer", "norm"))
            branches = tuple(_branches(config.get("form", "pre"), str(token), str(channel), str(norm), *scales))
            kinds.setdefault(branches, []).append(number)
    return kinds


def _scale(values: object, stage: int) -> Box | None:
    """The learnt factor of a branch or a shortcut."""
    value = values[stage] if isinstance(values, (list, tuple)) else values
    return None if value is None else Box("scale", f"scale, {value:g} at first")


def _branches(form: str, token: str, channel: str, norm: str, scale: Box | None, shortcut: Box | None):
    """The branches of a block, as `zoo.blocks.base.MetaBlock` has them."""
    after = () if scale is None else (scale,)
    norms = () if norm == "none" else (Box("norm", norm),)
    mixers = [Box(role, text) for role, text in (("token_mixer", token), ("channel_mixer", channel)) if text != "none"]
    if form == "serial":
        boxes = [box for mixer in mixers for box in ((*norms, mixer) if mixer.role == "channel_mixer" else (mixer,))]
        yield from [Branch((*boxes, *after), shortcut)] if mixers else []
        return
    for mixer in mixers:
        boxes = (*((mixer, *norms) if form == "post" else (*norms, mixer)), *after)
        yield Branch(boxes, shortcut, residual=form != "plain")


def _places(numbers: Sequence[int], firsts: Sequence[int], depths: Sequence[int]) -> str:
    """Where these blocks stand: by stage, counted from one, with their numbers unless they are all of it."""
    stages = list(enumerate(zip(firsts, depths, strict=True), 1))
    here = {stage: [n - first + 1 for n in numbers if first <= n < first + depth] for stage, (first, depth) in stages}
    whole = [stage for stage, (_, depth) in stages if len(here[stage]) == depth]
    if len(whole) == len(depths):
        return "every block"
    first, *others = here[1] or [0]
    step = others[0] - first if others else 2  # as in the first stage, so perhaps in each
    if (
        0 < first <= step
        and len(depths) > 1
        and all(here[n] == [*range(first, depth + 1, step)] for n, (_, depth) in stages)
    ):
        if step == 2:
            return f"{'odd' if first == 1 else 'even'} blocks of each stage"
        return f"blocks {first}, {first + step}, ... of each stage"
    texts = [f"stage{'s' * (len(whole) > 1)} {_ranges(whole)}"] if whole else []
    for stage in here:
        if here[stage] and stage not in whole:
            of = f"stage {stage}: " if len(depths) > 1 else ""
            texts.append(f"{of}block{'s' * (len(here[stage]) > 1)} {_ranges(here[stage])}")
    return "; ".join(texts)


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in few words.

    Example:
        >>> _ranges([1, 2, 3, 5]), _ranges([2, 4, 6, 8, 10]), _ranges([4])
        ('1 to 3, 5', '2, 4, ... 10', '4')
    """
    steps = {after - before for before, after in zip(numbers, numbers[1:], strict=False)}
    if len(numbers) > 3 and len(steps) == 1 and steps != {1}:
        return f"{numbers[0]}, {numbers[1]}, ... {numbers[-1]}"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
