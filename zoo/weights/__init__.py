"""Weights: reading files safely, fetching them, rules from published keys to zoo's, loading."""

from zoo.weights.fetch import fetch_state_dict
from zoo.weights.files import HOLDERS, read_shapes, read_state_dict, take_state_dict
from zoo.weights.load import (
    Resizable,
    check_fit,
    check_real,
    fit_weights,
    load_alike,
    load_weights,
    misfits,
    unwrapped,
)
from zoo.weights.loaded import HOWS, Fate, Loaded
from zoo.weights.rules import HEAD, Fit, Rule, drop, natural_key, remap, rename, reshape, stack, transpose
from zoo.weights.source import WeightSource, published_weights, weights_in_file

__all__ = [
    "HEAD",
    "HOLDERS",
    "HOWS",
    "Fate",
    "Fit",
    "Loaded",
    "Resizable",
    "Rule",
    "WeightSource",
    "check_fit",
    "check_real",
    "drop",
    "fetch_state_dict",
    "fit_weights",
    "load_alike",
    "load_weights",
    "misfits",
    "natural_key",
    "published_weights",
    "read_shapes",
    "read_state_dict",
    "remap",
    "rename",
    "reshape",
    "stack",
    "take_state_dict",
    "transpose",
    "unwrapped",
    "weights_in_file",
]
