"""Models in folders: saving and opening them, strictly and whole."""

from zoo.hub.folder import is_saved, open_model, remove_saved, save_pretrained

__all__ = ["is_saved", "open_model", "remove_saved", "save_pretrained"]
