"""S-ConvKAN: convolutions of learnt functions whose output channels choose the space that these are taken from.

Paper: Yang et al., "Activation Space Selectable Kolmogorov-Arnold Networks", arXiv 2408.08338.
Code:  none by the authors.
Weights: none are published.

The paper's idea is here: a Kolmogorov-Arnold convolution, several spaces for each node, and training in three phases,
with all of them, towards a choice, and with what was chosen (see `zoo.blocks.kan.select.SelectKANLinear`; the
loss of the second phase is ``loss/selection``). The networks are zoo's own: the skeleton of the hierarchical families
for images of 28 to 32 pixels, with no channel mixer, a norm before each convolution and a shortcut around both, a plain
convolution at the stem and strided ones between the stages. No figure of the paper stands for them.
"""

from zoo.family import Family
from zoo.models.digits import IMAGES
from zoo.skeletons.hierarchical import Hierarchical

FAMILY = Family(
    model=Hierarchical,
    defaults=dict(
        img_size=32,
        num_classes=10,
        stem="conv(kernel_size=3, stride=1, padding=1)",
        downsample="conv(kernel_size=3, padding=1, norm='layernorm')",
        token_mixer="select_kan_conv(kernel_size=3)",
        channel_mixer="none",
    ),
    variants={
        "s_convkan_tiny": dict(dims=(8, 16, 32, 64), depths=(1, 1, 1, 1)),
        "s_convkan_small": dict(dims=(16, 32, 64, 128), depths=(1, 1, 1, 1)),
        "s_convkan_digits": dict(IMAGES, dims=(8, 16), depths=(1, 1)),
        "s_convkan_test": dict(dims=(8, 8, 16, 16), depths=(1, 1, 1, 1)),
    },
)
