"""PoolFormer: a MetaFormer whose token mixer is average pooling.

Paper: Yu et al., "MetaFormer Is Actually What You Need for Vision", arXiv 2111.11418.
Code:  sail-sg/poolformer, models/poolformer.py (Apache-2.0).
Weights: Sea AI Lab (Apache-2.0), on the Hub by timm.

The head is timm's: pooling, then a layer norm. In the authors' code the final norm comes first and goes over the whole
map; ``final_norm="groupnorm", pool_first=False`` is that one. The weights fit both.
"""

from zoo.family import Family, Published, on_timm_hub
from zoo.models.digits import TWO_STAGES
from zoo.skeletons.hierarchical import Hierarchical
from zoo.weights import rename, reshape
from zoo.weights.layouts import STAGES, below, timm_head

AUTHORS = {r"layer_scale_(\d)$": r"scale\2.gamma", r"mlp\.": "channel_mixer.", "norm": "norm"}  # in a block
SMALL, MEDIUM = (64, 128, 320, 512), (96, 192, 384, 768)

FAMILY = Family(
    model=Hierarchical,
    defaults=dict(
        stem="conv(kernel_size=7, stride=4, padding=2)",
        downsample="conv(kernel_size=3, padding=1)",
        token_mixer="pool",
        channel_mixer="mlp(ratio=4)",
        norm="groupnorm",
        pool_first=True,
    ),
    variants={
        "poolformer_s12": dict(dims=SMALL, depths=(2, 2, 6, 2), layer_scale=1e-5),
        "poolformer_s24": dict(dims=SMALL, depths=(4, 4, 12, 4), layer_scale=1e-5),
        "poolformer_s36": dict(dims=SMALL, depths=(6, 6, 18, 6), layer_scale=1e-6),
        "poolformer_m36": dict(dims=MEDIUM, depths=(6, 6, 18, 6), layer_scale=1e-6),
        "poolformer_m48": dict(dims=MEDIUM, depths=(8, 8, 24, 8), layer_scale=1e-6),
        "poolformer_digits": dict(TWO_STAGES, layer_scale=0.1),
        "poolformer_test": dict(img_size=64, dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), layer_scale=0.1, num_classes=10),
    },
    published=on_timm_hub(
        {
            "poolformer_m36.sail_in1k": Published(56.17, 8.8, top1=82.104),
            "poolformer_m48.sail_in1k": Published(73.47, 11.59, top1=82.462),
            "poolformer_s12.sail_in1k": Published(11.92, 1.82, top1=77.238),
            "poolformer_s24.sail_in1k": Published(21.39, 3.41, top1=80.294),
            "poolformer_s36.sail_in1k": Published(30.86, 5.0, top1=81.428),
        }
    ),
    # Both layouts are read: timm's, and the authors', where network.0, 2, 4, 6 are stages and 1, 3, 5 lie between them.
    rules=[
        rename(r"^(?:stem\.conv|patch_embed\.proj)\.", "stem.proj."),
        *(rename(rf"^network\.{2 * i - 1}\.proj\.", f"stages.{i}.downsample.conv.") for i in (1, 2, 3)),
        *(
            rule
            for i in range(4)
            for rule in below((rf"^network\.{2 * i}\.(\d+)\.", rf"stages.{i}.blocks.\1."), AUTHORS, reshape)
        ),
        *below(STAGES, {r"layer_scale(\d)\.scale$": r"scale\3.gamma"}),
        *below(STAGES, {r"mlp\.": "channel_mixer."}, reshape),
        *timm_head(),
    ],
)
