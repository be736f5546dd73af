"""The spiral: where channels come from, against torchvision's deformable convolution."""

import pytest
import torch
from torchvision.ops import deform_conv2d

from zoo.blocks.token.spiral import Spiral, moved, spiral
from zoo.models.vision.spiral_mlp import places


def deformed(x: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Each channel moved, by a deformable convolution whose kernel is the identity."""
    places = offset.reshape(1, -1, 1, 1).expand(len(x), -1, *x.shape[1:3])
    identity = torch.eye(x.shape[-1])[..., None, None]
    return deform_conv2d(x.permute(0, 3, 1, 2), places, identity).permute(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(9, 20), (3, 2)])  # wider and narrower than the spiral
def test_moved_channels_are_a_deformable_convolution(size):
    x = torch.randn(2, *size, 64, dtype=torch.float32)
    offset = torch.tensor(spiral(64, 7, 32)).float()
    assert offset.abs().max() == 7
    torch.testing.assert_close(moved(x, offset, 7), deformed(x, offset))


def test_places_between_positions_are_interpolated_and_far_ones_are_zero():
    x = torch.randn(2, 6, 5, 5)
    offset = torch.tensor([[0.25, -1.5], [1e18, 0.0], [-2.0, 0.75], [0.0, torch.nan], [-1e-38, 1e-38]])
    y = moved(x, offset, 2, between=True)
    known = [0, 2, 4]  # of no number an implementation may make what it likes
    torch.testing.assert_close(y[..., known], deformed(x[..., known], offset[known]))
    assert not y[..., [1, 3]].any()
    whole = moved(x, offset, 2)
    assert not whole[..., [1, 3]].any() and torch.equal(whole[..., 4], x[..., 4])


def test_the_second_half_of_the_channels_goes_the_way_of_the_first():
    offset = Spiral(10, amplitude=4, period=6).offset
    assert torch.equal(offset[:5], offset[5:]) and offset[:5].abs().amax(1).tolist() == [0, 1, 3, 3, 1]
    assert spiral(3, 2, 4)[2] == spiral(3, 2, 4)[0]


def test_each_channel_takes_a_share_of_both_maps():
    """With a merge that says nothing it is their mean; the maps are exchanged with the halves of its scores."""
    mixer, x = Spiral(8, amplitude=1), torch.randn(2, 4, 4, 8)
    torch.nn.init.zeros_(mixer.reweight.fc2.weight)
    torch.nn.init.eye_(mixer.proj.weight)
    own, around = mixer.fc_self(x), mixer.fc_cross(moved(x, mixer.offset, 1))
    torch.testing.assert_close(mixer(x), (own + around) / 2)
    with torch.no_grad():
        mixer.reweight.fc2.bias.view(8, 2)[:, 0] = 30
    torch.testing.assert_close(mixer(x), around)


def test_a_checkpoint_with_places_between_positions_says_what_takes_them():
    """Half of the authors' buffer is memory that nothing was written to, zeros most often, or far too large."""
    unwritten = torch.tensor([3.0, -7.0, 1e18, 0.0, 1e-38, torch.inf]).view(1, 6, 1, 1)
    assert places(unwritten, torch.Size([3, 2])).tolist() == unwritten.view(3, 2).tolist()
    unwritten[0, 3] = 0.25
    with pytest.warns(UserWarning, match=r"0.25 among the places .*spiral\(between=True\)"):
        places(unwritten, torch.Size([3, 2]))
