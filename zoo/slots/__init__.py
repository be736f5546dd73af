"""Slots: ``"name(option=value)"`` -> a checked block, one for each place of a model.

A slot is a string, a mapping ``{"name": ..., option: value}``, a class or partial, or None. A model takes one slot for
all its blocks, a list (a cycle over the blocks), or a mapping that exchanges blocks: ``at={index: slot}`` single ones,
``every={n: slot}`` each n-th. Such a mapping that has no name leaves the model's own slots to the other blocks.
"""

from zoo.slots.build import (
    OF_THE_MODEL,
    RANKS,
    OfKind,
    build_act,
    build_block,
    check_rank,
    create_block,
    list_blocks,
    options_of,
)
from zoo.slots.resolve import exchanges, resolve_slots, resolve_stage_slots, with_others
from zoo.slots.slot import Slot, SlotLike, SlotsLike, copied, dump_slots, parse_slot
from zoo.slots.table import register as register_block

__all__ = [
    "OF_THE_MODEL",
    "RANKS",
    "build_act",
    "build_block",
    "create_block",
    "list_blocks",
    "options_of",
    "OfKind",
    "check_rank",
    "exchanges",
    "resolve_slots",
    "resolve_stage_slots",
    "with_others",
    "Slot",
    "SlotLike",
    "SlotsLike",
    "copied",
    "dump_slots",
    "parse_slot",
    "register_block",
]
