"""Activations that a slot can name."""

from torch import nn

from zoo.blocks.register import register

for _name, _cls in {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}.items():
    register("act", _name)(_cls)

register("act", "none")(nn.Identity)
