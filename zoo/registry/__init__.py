"""Families and variants as data: which there are, and what is known of them."""

from zoo.family import Family
from zoo.registry.box import Boxed, boxed
from zoo.registry.cfgs import cfgs_of, cfgs_of_family, classes_of, resolve_cfg
from zoo.registry.discovery import families, family_of
from zoo.registry.listing import ModelInfo, list_models, model_info

__all__ = [
    "Boxed",
    "Family",
    "ModelInfo",
    "boxed",
    "cfgs_of",
    "classes_of",
    "families",
    "family_of",
    "list_models",
    "cfgs_of_family",
    "model_info",
    "resolve_cfg",
]
