"""Small pictures for a page, as data URIs."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

SIDE = 112  # pixels of a thumbnail, at most
# Of classes in turn, for pixels; the first, which is the background in most data, is dark.
CLASSES = (
    *((38, 42, 48), (66, 105, 208), (239, 177, 24), (255, 114, 92), (60, 169, 81), (164, 99, 242), (108, 197, 176)),
    *((156, 107, 78), (255, 138, 183), (151, 187, 245), (198, 219, 87), (140, 140, 140), (120, 40, 80)),
)


def thumbnail(image: Tensor, preparation: Mapping[str, Any] | None = None) -> str:
    """A picture ``(C, H, W)`` as it was before it was prepared for a model.

    Args:
        image: Grey or RGB; of other numbers of channels the mean is shown.
        preparation: Its ``mean`` and ``std``, if they are known; otherwise values are stretched to what can be shown,
            unless all are in [0, 1] already.
    """
    image = image.detach().float().cpu()
    mean, std = ((preparation or {}).get(key) for key in ("mean", "std"))
    if mean and std and len(mean) == len(std) == len(image):
        image = image * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    elif image.min() < 0 or image.max() > 1:
        low, high = image.min(), image.max()
        image = (image - low) / (high - low).clamp(min=1e-6)
    if len(image) not in (1, 3):
        image = image.mean(0, keepdim=True)
    pixels = (image.clamp(0, 1) * 255).round().byte()
    return _uri(Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()))


def class_map(labels: Tensor) -> str:
    """A picture ``(H, W)`` of a colour a class."""
    colours = torch.tensor(CLASSES, dtype=torch.uint8)
    return _uri(Image.fromarray(colours[labels.cpu().long() % len(colours)].numpy()), exact=True)


def _uri(picture: Image.Image, exact: bool = False) -> str:
    """PNG; a larger picture is reduced, a smaller one is enlarged by the page."""
    picture.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
