"""What `zoo new` writes."""

import keyword
import re
from string import Template

TOKEN_MIXER = Template('''\
"""$title: in one line, how it mixes positions."""

from torch import Tensor, nn

from zoo.blocks.linear import Linear, linear
from zoo.blocks.mixer import Mixer
from zoo.checks.ranges import Width
from zoo.slots.table import register


@register("token_mixer", "$name")
class $class_name(Mixer):
    """Each position moved by some along the last axis of the grid, then mapped.

    Args:
        step: By how many positions.
        bias: Whether the map has one.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, one or two position dimensions of any size.

    Example:
        >>> import torch
        >>> $class_name(8)(torch.randn(2, 4, 4, 8)).shape
        torch.Size([2, 4, 4, 8])

    Source: authors, "title" (arXiv number), equation; repository, file.
    Differs: none known.
    Cost: dim x dim MACs a position.
    Raises: ValueError for a step out of its range.
    """

    def __init__(self, dim: Width, *, step: Width = 1, bias: bool = True, device=None, dtype=None):
        super().__init__()
        self.step = step
        self.fc: nn.Linear = Linear(dim, dim, bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.roll(self.step, dims=-2), self.fc)
''')

CHANNEL_MIXER = Template('''\
"""$title: in one line, what it makes of the channels of a position."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.linear import Linear, linear
from zoo.blocks.mixer import Mixer
from zoo.checks.ranges import Ratio, Width
from zoo.slots.table import register


@register("channel_mixer", "$name")
class $class_name(Mixer):
    """``fc2(gelu(fc1(x)))``, position by position.

    Args:
        ratio: Width of the hidden layer over `dim`.
        bias: Whether the maps have one.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> $class_name(8)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])

    Source: authors, "title" (arXiv number), equation; repository, file.
    Differs: none known.
    Cost: 2 x dim x hidden MACs a position.
    Raises: ValueError for a ratio out of its range.
    """

    def __init__(self, dim: Width, *, ratio: Ratio = 4.0, bias: bool = True, device=None, dtype=None):
        super().__init__()
        hidden = max(1, int(dim * ratio))
        self.fc1: nn.Linear = Linear(dim, hidden, bias, device=device, dtype=dtype)
        self.fc2: nn.Linear = Linear(hidden, dim, bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return linear(F.gelu(linear(x, self.fc1)), self.fc2)
''')

FAMILY = Template('''\
"""$title: in one line, what is new about it.

Paper: authors, "title", arXiv number.
Code:  repository, file (licence).
Weights: none released.

Example:
    >>> import torch
    >>> model = FAMILY.model(**FAMILY.arguments("${name}_test"))
    >>> model(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
"""

from zoo.family import Family
from zoo.skeletons.isotropic import Isotropic

FAMILY = Family(
    model=Isotropic,  # or Hierarchical, of stages
    defaults=dict(token_mixer="attention", channel_mixer="mlp(ratio=4)"),
    variants={
        "${name}_small": dict(img_size=224, patch_size=16, dim=384, depth=12),
        "${name}_test": dict(img_size=32, patch_size=8, dim=32, depth=3, num_classes=10),
    },
    # The authors' own figures, with the digits that they print: Published(22.1, 4.6, top1=79.9, source="table 1").
    published={},
)
''')

TEXTS = {"token_mixer": TOKEN_MIXER, "channel_mixer": CHANNEL_MIXER, "family": FAMILY}


def check_name(kind: str, name: str, slot: str) -> None:
    """Refuse what cannot be the name of a part, or is that of one already.

    Raises:
        ValueError: It is so.
    """
    from zoo.checks import shown

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"the name is {shown(name)}; give small letters, digits and _, such as gated_shift")
    if name == "none" or keyword.iskeyword(name):
        raise ValueError(f"{shown(name)} means something else already, in a slot or in Python; give another name")
    if kind == "family":
        from zoo.cli.support.models import index

        taken = index()["families"]
    else:
        from zoo.cli.support.models import load

        load()
        from zoo.slots.table import blocks_of

        taken = blocks_of(slot)
    if name in taken:
        raise ValueError(f"there is a {kind} {shown(name)} already; give another name")


def text_of(kind: str, name: str, slot: str) -> str:
    """The file of a new part."""
    words = name.split("_")
    title = " ".join(words).capitalize()
    text, class_name = TEXTS[slot if kind == "mixer" else kind], "".join(word.capitalize() for word in words)
    if re.search(rf"\b{class_name}\b", text.template):  # the file needs another thing of that name
        class_name += "Mixer"
    return text.substitute(name=name, title=title, class_name=class_name)
