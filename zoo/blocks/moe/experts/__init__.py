"""Experts: stacked perceptrons run as grouped matrix products, any channel mixers side by side, modulated ones."""
