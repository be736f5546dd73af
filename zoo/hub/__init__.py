"""Models in folders: saving and opening them, strictly and whole."""

from zoo.hub.bounds import Sizes
from zoo.hub.config import naming
from zoo.hub.download import open_from_hub
from zoo.hub.folder import MODEL, is_saved, remove_saved
from zoo.hub.open import open_model
from zoo.hub.save import save_pretrained

__all__ = ["MODEL", "Sizes", "is_saved", "naming", "open_from_hub", "open_model", "remove_saved", "save_pretrained"]
