"""Bases of functions of one number: what the edges of a Kolmogorov-Arnold layer are made of, one file a basis."""
