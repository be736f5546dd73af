"""Mixtures of experts: a router that chooses, a dispatch that sorts, experts that compute; each can be exchanged."""
