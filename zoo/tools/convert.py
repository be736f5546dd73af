"""Models from trained ones of another family."""

from torch import nn

from zoo.blocks.channel.mlp import Mlp
from zoo.build.recombine import transplant
from zoo.create import create_model
from zoo.skeletons.isotropic import Isotropic


def kat_from_vit(source: str | nn.Module, *, rational: str = "gelu", **kwargs) -> nn.Module:
    """A KAT with all the weights of a trained ViT or DeiT, to be trained on.

    The first rational of each block begins as the identity. With the second at its nearest to GELU, the new model
    computes nearly what the old one does.

    Args:
        source: A model of zoo, or the name of one with released weights.
        rational: What the second rational begins as; the authors took ``swish``.
        kwargs: For a name: arguments of `zoo.create_model`, such as `num_classes`.

    Example:
        >>> import zoo
        >>> kat = kat_from_vit(zoo.create_model("deit_test"))
        >>> kat.blocks[0].channel_mixer.act2
        GroupRational(groups=8, init='gelu')

    Raises:
        TypeError: It is not a model with the perceptrons of ViT.
        ValueError: A name is unknown, or an argument.
    """
    if isinstance(source, str):
        source = create_model(source, pretrained=True, **kwargs)
    elif kwargs:
        raise ValueError(f"{', '.join(kwargs)}: arguments are for a name; this model is built already")
    mixers = [block.channel_mixer for block in source.blocks] if isinstance(source, Isotropic) else []
    alike = lambda m: type(m) is Mlp and type(m.act) is nn.GELU and (m.fc1.bias is None) == (m.fc2.bias is None)
    if not mixers or not all(map(alike, mixers)):
        raise TypeError("kat_from_vit takes a ViT or a DeiT of zoo, whose channel mixers are perceptrons with GELU")
    weight = next(source.parameters())
    arguments = dict(source.config, init="trunc_normal")
    arguments["channel_mixer"] = [
        dict(name="gr_kan", hidden=m.fc1.out_features, bias=m.fc1.bias is not None, rational=rational) for m in mixers
    ]
    widths = {384: "small", 768: "base"}  # of the variants; another has the name of tiny
    name = f"kat_{widths.get(source.num_features, 'tiny')}_patch16_224"
    kat = create_model(name, **arguments, device=weight.device, dtype=weight.dtype)
    # The weights know images as the ViT was given them.
    kat.pretrained_cfg.update({k: source.pretrained_cfg[k] for k in ("mean", "std", "interpolation", "crop_pct")})
    kat.loaded = transplant(source, kat, type(source).__name__)
    assert not kat.loaded.count("new", "left out")[0], kat.loaded
    return kat
