"""What a model costs: parameters and multiply-accumulates, exactly."""

from zoo.costs.count import count_flops
from zoo.costs.report import FlopReport
from zoo.costs.rules import register_flop_rule

__all__ = ["FlopReport", "count_flops", "register_flop_rule"]
