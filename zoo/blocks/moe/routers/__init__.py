"""Routers: which experts each token goes to, and with which weights."""
