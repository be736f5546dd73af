"""Making a dense model sparse."""

import copy

from torch import nn

from zoo.blocks.mixer import trait
from zoo.blocks.moe.dispatch import Dropless
from zoo.blocks.moe.layer import MoE
from zoo.blocks.moe.routers.base import Router
from zoo.build.conversions import STACKED, copies_for
from zoo.slots import Slot, SlotLike, build_block, parse_slot
from zoo.tools.moe.mixtures import Places, block_widths, blocks_of_model, choose_blocks


def upcycle(model: nn.Module, moe: SlotLike = "moe", *, at: Places = None, every: int | None = None) -> nn.Module:
    """Make a dense model sparse: its channel mixers become mixtures whose experts are all copies of them.

    In eval mode the logits stay what they were, since the weights of a token's experts have the sum 1 and all experts
    are equal. The routers start anew. Perceptrons (`mlp`, `glu`, `hourglass`) are stacked; any other mixer is copied.

    Args:
        model: A model of `zoo.create_model`; it stays as it is.
        moe: Slot of the mixtures, without `experts`: ``"moe(num_experts=8, top_k=2)"``.
        at: Index of the block, or of several, counted over all stages, negative ones from the end.
        every: Each n-th block: those with the indices n - 1, 2n - 1, … Without `at` and `every` all that have a dense
            channel mixer.

    Returns:
        The sparse model, which saves and loads like any other.

    Example:
        >>> import zoo
        >>> model = upcycle(zoo.create_model("vit_test"), "moe(num_experts=4, top_k=2)", every=2)
        >>> [str(slot) for slot in model.config["channel_mixer"]]
        ['mlp(ratio=4)', "moe(num_experts=4, top_k=2, experts='mlp(hidden=128)')", 'mlp(ratio=4)']

    Source: Komatsuzaki et al., "Sparse Upcycling" (arXiv 2212.05055), section 3.
    Differs: each token chooses its experts, and nothing is dropped; the paper's encoders have expert choice with a
        capacity. The state of an optimizer is not carried over.

    Raises:
        TypeError: It is no model of zoo.
        ValueError: The logits would not stay: the router's weights do not have the sum 1, choices may be dropped, or
            there is a shared expert; or a block is not there or has no dense mixer.
    """
    blocks = blocks_of_model(model)
    dense = [i for i, block in enumerate(blocks) if not isinstance(block.channel_mixer, (MoE, type(None)))]
    chosen = choose_blocks(len(blocks), at, every, dense, "a dense channel mixer")
    moe_slot = parse_slot(moe)
    if moe_slot.name != "moe":
        raise ValueError(f'upcycle makes mixtures of experts, not {moe_slot}; give "moe(num_experts=8, top_k=2)"')
    for option in ("experts", "shared"):
        if moe_slot.options.get(option) is not None:
            raise ValueError(
                f"upcycle({moe_slot}): the experts are copies of the model's mixers alone; leave {option} out"
            )
    if model.deployed:
        raise ValueError("the model's branches are merged for inference (reparameterize); upcycle it before that")
    sparse = copy.deepcopy(model)
    config, widths, like = sparse.config, block_widths(sparse), next(sparse.parameters())
    defaults = {"init": config["init"], "act": config["act"], "drop": config["proj_drop_rate"]}
    for i, block in enumerate(blocks_of_model(sparse)):
        if i not in chosen:
            continue
        mixer, slots = block.channel_mixer, config["channel_mixer"]
        slots[i] = Slot("moe", {**moe_slot.options, "experts": _experts_of(mixer, slots[i])})
        mixture = build_block(
            "channel_mixer", slots[i], widths[i], defaults=defaults, device=like.device, dtype=like.dtype
        )
        _check_equal(moe_slot, mixture)
        _fill(mixture, mixer)
        block.channel_mixer = mixture.train(mixer.training)
    return sparse


def _experts_of(mixer: nn.Module, slot: Slot) -> str | list[str]:
    """The experts' slot for copies of a mixer."""
    if slot.name is None:
        raise ValueError(f"a channel mixer was given as {slot}, which has no name; register it by zoo.register_block")
    if not trait(mixer, "per_position"):
        raise ValueError(
            f"{slot} looks at all positions of a sample, and an expert sees some of them; choose blocks without it by "
            "at or every, or create the model with another channel_mixer"
        )
    if type(mixer) not in STACKED:
        return [str(slot)]
    left = {k: v for k, v in slot.options.items() if k not in ("ratio", "hidden", "gate_last", "open_gate")}
    name = "glu" if STACKED[type(mixer)].gated else "mlp"
    return str(Slot(name, {"hidden": mixer.fc2.in_features, **left}))


def _check_equal(slot: Slot, mixture: MoE) -> None:
    """Check that equal experts make the mixture a dense layer."""
    if not trait(mixture.router, "sums_to_one", Router):
        raise ValueError(
            f"upcycle({slot}): the weights of a token's experts do not have the sum 1, so the logits would change; "
            "take router=\"top_k(softmax='after')\", or another whose `sums_to_one` is true"
        )
    if not isinstance(mixture.dispatch, Dropless):
        raise ValueError(f"upcycle({slot}): dropped choices would change the logits; leave dispatch out")


def _fill(mixture: MoE, mixer: nn.Module) -> None:
    """Give all experts the weights of a mixer."""
    experts = mixture.experts
    copies = copies_for(experts, mixer)
    if copies is None:
        experts.mixers = nn.ModuleList(copy.deepcopy(mixer) for _ in experts.mixers)
        return
    experts.load_state_dict(copies)
    for name, parameter in mixer.named_parameters():
        experts.get_parameter(name).requires_grad_(parameter.requires_grad)
