"""The guide: views rendered from the nearest photos, and photos warped to where a view would see them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from v3d.cameras import Cameras, intrinsics, look_at, orbit
from v3d.diffusion.guide import (
    OUTLINE,
    firm_alpha,
    in_outlines,
    render_guide,
    render_views,
    smooth_outlines,
    warp_nearest,
)
from v3d.networks.pixelnerf import PixelNeRF, PixelNeRFConfig
from v3d.networks.sources import camera_similarity

SIZE = 32


@pytest.fixture(scope="module")
def pixelnerf() -> PixelNeRF:
    torch.manual_seed(0)
    config = PixelNeRFConfig(size=SIZE, width=64, depth=1, grid=8, planes=4, samples=4, drawn=SIZE)
    return PixelNeRF(config).eval()


def photos(count: int) -> torch.Tensor:
    return torch.rand(count, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("sources", [3, 4])
def test_a_view_is_drawn_from_the_nearest_photos(pixelnerf: PixelNeRF, sources: int) -> None:
    """As if it had been asked for alone; other photos change nothing, and their order neither."""
    kind = PixelNeRF(replace(pixelnerf.config, sources=sources)).eval()
    kind.load_state_dict(pixelnerf.state_dict())
    around, new = orbit(9, size=SIZE, elevation=20.0), orbit(5, size=SIZE)
    images = photos(9)
    guide = render_guide(kind, images, around, new, 2)
    for v in range(5):
        near = camera_similarity(around, new[v])[:, 0].argsort(descending=True)[:sources]
        others = images.flip(3)
        others[near] = images[near]
        alone = render_guide(kind, others, around, new[v], 2)
        torch.testing.assert_close(alone.images[0], guide.images[v])
        torch.testing.assert_close(alone.depth[0], guide.depth[v])
        torch.testing.assert_close(alone.warped[0], guide.warped[v])
    order = [4, 2, 0, 8, 6, 1, 3, 5, 7]
    (rendered, _), (mixed, _) = (render_views(kind, images[k], around[k], new) for k in ([*range(9)], order))
    torch.testing.assert_close(mixed, rendered, atol=1e-5, rtol=0)


@pytest.mark.parametrize("opaque", [False, True])
def test_objects_have_firm_outlines_and_scenes_none(pixelnerf: PixelNeRF, opaque: bool) -> None:
    kind = PixelNeRF(replace(pixelnerf.config, opaque=opaque)).eval()
    kind.load_state_dict(pixelnerf.state_dict())
    cameras = orbit(3, size=SIZE)
    rendered, _ = render_views(kind, photos(1), cameras[0], cameras)
    guide = render_guide(kind, photos(1), cameras[0], cameras, 1).images
    torch.testing.assert_close(guide, rendered if opaque else firm_alpha(smooth_outlines(rendered)))


def on_white(colour: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    return torch.cat([colour * alpha + 1 - alpha, alpha], -3) * 2 - 1


def test_smooth_outlines_have_no_teeth_and_keep_their_place_and_colour() -> None:
    colour = torch.tensor([0.8, 0.3, 0.1])[:, None, None].expand(3, 16, 16)
    edge = torch.zeros(1, 16, 16)
    edge[:, :, :8] = 1.0
    toothed = edge.clone()
    toothed[:, ::2, 8] = 1.0
    toothed[:, ::2, 7] = 0.0
    toothed[:, 4, 13] = 1.0  # a speck
    images = torch.stack([on_white(colour, alpha) for alpha in (torch.ones_like(edge), edge, toothed)])
    smooth = smooth_outlines(images)
    torch.testing.assert_close(smooth[0], images[0])  # no outline
    alpha = smooth[:, 3] / 2 + 0.5
    inner = slice(4, 12)  # off the border, where rows repeat
    torch.testing.assert_close(alpha[1, inner, 7] + alpha[1, inner, 8], torch.ones(8))  # the place
    assert float((alpha[2, inner, 6:10] - alpha[2, inner, 6:10].mean(0)).abs().max()) < 0.15  # of 0.5
    firm = firm_alpha(smooth)
    assert float(firm[2, 3, 4, 13]) == -1.0
    opaque = firm[:, 3] > 0.9
    torch.testing.assert_close(
        firm.movedim(1, -1)[opaque][:, :3], (colour[:, 0, 0] * 2 - 1).expand(int(opaque.sum()), 3)
    )


def test_fog_becomes_an_edge_where_its_alpha_says() -> None:
    """However slowly alpha falls, the silhouette ends within two pixels, and a sharp one stays in place."""
    colour = torch.tensor([0.2, 0.5, 0.7])[:, None, None].expand(3, 8, 64)
    x = torch.arange(64) + 0.5
    for middle, width in ((30.0, 24.0), (31.3, 10.0), (20.6, 2.0)):
        alpha = ((middle - x) / width + OUTLINE).clamp(0, 1).expand(1, 8, 64)
        firm = firm_alpha(on_white(colour, alpha)[None])[0]
        edge = firm[3, 4] / 2 + 0.5
        assert float(edge.sum()) == pytest.approx(middle, abs=0.3)  # pixels from the left to the silhouette
        assert int(((edge > 0.01) & (edge < 0.99)).sum()) <= 3
        torch.testing.assert_close(firm[:3, 4, 5], colour[:, 4, 5] * 2 - 1)
    nothing = on_white(colour, torch.full((1, 8, 64), 0.3))[None]
    assert float(firm_alpha(nothing)[:, 3].max()) == -1.0


def test_outlines_are_the_guides_and_colours_the_painted_ones() -> None:
    """A red image over a blue guide: red where it is opaque, blue where it is not, the guide's silhouette."""
    red, blue = (torch.tensor(c)[:, None, None].expand(3, 1, 5) for c in ([0.9, 0.1, 0.1], [0.1, 0.1, 0.9]))
    body = torch.tensor([[[1.0, 1.0, 1.0, 0.5, 0.0]]])
    paint = torch.tensor([[[1.0, 0.0, 0.6, 1.0, 1.0]]])
    guide = on_white(blue, body)
    image = in_outlines(on_white(red, paint)[None], guide[None])[0]
    assert torch.equal(image[3:], guide[3:])
    torch.testing.assert_close(image[:, 0, 0], on_white(red, body)[:, 0, 0])
    torch.testing.assert_close(image[:, 0, 1], guide[:, 0, 1])
    assert blue[0, 0, 2] < image[0, 0, 2] / 2 + 0.5 < red[0, 0, 2] and image[0, 0, 2] > 0.5  # rather red
    torch.testing.assert_close(image[:, 0, 3], on_white(red, body)[:, 0, 3])
    torch.testing.assert_close(image[:, 0, 4], torch.tensor([1.0, 1.0, 1.0, -1.0]))
    torch.testing.assert_close(in_outlines(guide[None], guide[None])[0], guide)


def wall(cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and depth of the plane x = 0, coloured smoothly by where a ray meets it."""
    origins, directions = cameras.rays()
    depth = -origins[..., 0] / directions[..., 0]
    points = origins + directions * depth[..., None]
    colour = torch.stack([points[..., 1], points[..., 2], points[..., 1] * 0], 1).clamp(-1, 1)
    return torch.cat([colour, torch.ones_like(colour[:, :1])], 1), depth


def cameras_at(*places: tuple[float, float, float]) -> Cameras:
    c2w = look_at(torch.tensor(places))
    return Cameras(c2w, intrinsics(50.0, SIZE, SIZE).repeat(len(places), 1, 1), SIZE, SIZE)


def test_right_depth_carries_photos_to_where_a_view_sees_them() -> None:
    given, new = cameras_at((2.0, 0.3, 0.0), (2.0, -0.6, 0.2)), cameras_at((1.8, 0.0, 0.1), (2.2, -0.4, 0.3))
    pictures, _ = wall(given)
    truth, depth = wall(new)
    warped = warp_nearest(pictures, given, new, depth, 2)
    seen = warped[:, :, 4] > 0
    assert 0.5 < float(seen.float().mean()) < 1
    error = (warped[:, :, :4] - truth[:, None]).abs().amax(2)
    assert (
        float(error[seen].quantile(0.9)) < 1e-3 and float(error[seen].max()) < 0.04
    )  # half a pixel at borders
    own = warp_nearest(truth, new, new, depth, 1)  # the nearest photo of a view is the view itself
    torch.testing.assert_close(own[:, 0, :4], truth, atol=1e-3, rtol=0)
    assert bool((own[:, 0, 4] == 1).all())


def test_nothing_is_seen_where_a_view_is_empty_or_a_photo_looks_away() -> None:
    given, new = cameras_at((2.0, 0.0, 0.0)), cameras_at((2.0, 0.2, 0.0), (-2.0, 0.0, 0.0))
    pictures, _ = wall(given)
    depth = torch.full((2, SIZE, SIZE), 2.0)
    depth[0, :, : SIZE // 2] = 0
    depth[1] = 10.0  # behind the photo's camera
    warped = warp_nearest(pictures, given, new, depth, 3)
    assert warped.shape == (2, 3, 5, SIZE, SIZE)  # one photo stands three times
    assert torch.equal(warped[:, 0], warped[:, 1]) and torch.equal(warped[:, 0], warped[:, 2])
    assert bool((warped[0, :, 4, :, : SIZE // 2] == -1).all()) and bool((warped[1, :, 4] == -1).all())
    assert bool((warped[0, :, 4, :, SIZE // 2 + 4 : -4] == 1).all()) and bool(warped.isfinite().all())
