"""What a model costs: parameters and multiply-accumulates, exactly; backward passes, activations and memory traffic."""

from zoo.costs.count import count_costs, count_flops
from zoo.costs.report import CostReport, FlopReport
from zoo.costs.rules import register_flop_rule
from zoo.costs.work import Work

__all__ = ["CostReport", "FlopReport", "Work", "count_costs", "count_flops", "register_flop_rule"]
