"""The atlas: a static site of all models, their costs and weights, drawings and the API, written from the registry.

`zoo atlas` and `make atlas` write it. It is built by MkDocs, and its pages need no network.
"""

from zoo.discovery import lazily as _lazily

__all__ = ["write_atlas"]

__getattr__, __dir__ = _lazily("zoo.tools.atlas", {"write_atlas": "site"})
