"""What the variants `<family>_digits` have in common: they are for scikit-learn's handwritten digits, 8 x 8 pixels.

The recipes of recipes/digits train them, and what they gave comes with zoo, in a folder `box` beside the family's file.
"""

from types import MappingProxyType

IMAGES = MappingProxyType(dict(img_size=8, in_chans=1, num_classes=10))
PATCHES = MappingProxyType(dict(IMAGES, patch_size=2))  # 16 of them
# Of 8 x 8 and of 4 x 4 positions: a stem of stride 4 would leave four.
TWO_STAGES = MappingProxyType(
    dict(IMAGES, dims=(24, 48), depths=(2, 2), stem="conv(kernel_size=3, stride=1, padding=1)")
)
