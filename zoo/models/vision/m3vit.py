"""M3ViT: ViT for several tasks at once; the experts of every second block are chosen by a gate of the task asked for.

Paper: Liang et al., "M3ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning with
    Model-Accelerator Co-design", arXiv 2210.14793.
Code:  VITA-Group/M3ViT, models/vision_transformer_moe.py, configs (MIT).
Weights: none released.

The variants are the backbones of the authors' configurations with the experts of the command in their README: 16 of the
width of the features, four a token, a gate for each task, no noise. They have no final norm and no classifier; with
`num_classes` they get one. The heads for dense prediction are not part of zoo: `features_only` gives what they take.

The task is a keyword of the call, ``model(x, task=1)``, of feature maps as of logits; without it that is task 0. By
number: NYUD and Cityscapes 0 semantic segmentation, 1 depth; PASCAL 0 semantic segmentation, 1 human parts, 2
saliency, 3 surface normals, 4 edges.
"""

from zoo.family import Counted
from zoo.models.digits import PATCHES
from zoo.models.vision.vit import FAMILY as VIT
from zoo.weights import stack, transpose
from zoo.weights.layouts import BLOCKS, below, within


def moe(tasks: int, num_experts: int = 16, top_k: int = 4) -> dict:
    """A perceptron in the even blocks and a mixture with a gate for each task in the odd ones."""
    router = dict(name="task", tasks=tasks, noise=0.0, losses=("importance",), init="torch")
    mixture = dict(name="moe", num_experts=num_experts, top_k=top_k, experts="mlp(ratio=1)", router=router)
    return dict(channel_mixer=["mlp(ratio=4)", mixture])


TINY = dict(dim=192, token_mixer="attention(heads=3)")
SMALL = dict(dim=384, token_mixer="attention(heads=12)")
BASE = dict(dim=768, token_mixer="attention(heads=12)")
NYUD = dict(moe(2), img_size=(480, 640))
PASCAL = dict(moe(5), img_size=512)

FAMILY = VIT.derive(
    defaults=dict(init="trunc_normal", stem="patch", embed="class_and_position", final_norm="none", num_classes=0),
    variants={
        "m3vit_tiny_patch16_cityscapes": dict(TINY, **moe(2), img_size=(128, 256)),
        "m3vit_small_patch16_nyud": dict(SMALL, **NYUD),
        "m3vit_small_patch16_pascal": dict(SMALL, **PASCAL),
        "m3vit_base_patch16_nyud": dict(BASE, **NYUD),
        "m3vit_base_patch16_pascal": dict(BASE, **PASCAL),
        "m3vit_digits": dict(
            PATCHES, **moe(2, num_experts=4, top_k=2), dim=48, depth=4, token_mixer="attention(heads=4)", init="lecun"
        ),
        "m3vit_test": dict(VIT.variants["vit_test"], **moe(2, num_experts=4, top_k=2)),
    },
    # The parameters are those of the authors' backbones as their code builds them; a count of MACs has no other source.
    counted={
        "m3vit_tiny_patch16_cityscapes": Counted(10.887360, 0.783, by_zoo=("macs",)),
        "m3vit_small_patch16_nyud": Counted(43.420032, 39.193, by_zoo=("macs",)),
        "m3vit_small_patch16_pascal": Counted(43.463040, 31.787, by_zoo=("macs",)),
        "m3vit_base_patch16_nyud": Counted(171.774720, 129.389, by_zoo=("macs",)),
        "m3vit_base_patch16_pascal": Counted(171.860736, 107.103, by_zoo=("macs",)),
    },
    rules=[
        *below(within(BLOCKS, r"mlp\.experts\.", "channel_mixer.experts."), {r"htoh4\.": "fc1.", r"h4toh\.": "fc2."}),
        stack(r"^(blocks\.\d+)\.mlp\.gate\.\d+\.w_gate$", r"\1.channel_mixer.router.gate.weight", operation=transpose),
        *VIT.rules,
    ],
)
