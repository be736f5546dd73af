"""Checks of what a user gives, and what an error says of it."""

from zoo.checks.errors import MANY, in_a_line, nearest, printable, shown, some, unknown
from zoo.checks.values import (
    NARROWER,
    Interval,
    Known,
    Rule,
    allows_none,
    check_argument,
    check_path,
    check_type,
    checked,
    hints_of,
    unboxed,
    words_of,
)

__all__ = [
    "Interval",
    "Known",
    "MANY",
    "NARROWER",
    "Rule",
    "allows_none",
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
