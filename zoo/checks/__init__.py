"""Checks of what a user passes, and what an error says of it."""

from zoo.checks.annotations import NARROWER, allows_none, callee, hints_of, words_of
from zoo.checks.errors import MANY, in_a_line, nearest, printable, shown, some, unknown
from zoo.checks.rules import Interval, Known, Rule
from zoo.checks.values import check_argument, check_path, check_type, checked, unboxed

__all__ = [
    "Interval",
    "Known",
    "MANY",
    "NARROWER",
    "Rule",
    "allows_none",
    "callee",
    "check_argument",
    "check_path",
    "check_type",
    "checked",
    "hints_of",
    "in_a_line",
    "nearest",
    "printable",
    "shown",
    "some",
    "unboxed",
    "unknown",
    "words_of",
]
