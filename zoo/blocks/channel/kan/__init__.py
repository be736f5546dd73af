"""Kolmogorov-Arnold layers: a learnt function on every edge, as a sum over a basis of `zoo.blocks.basis`."""
