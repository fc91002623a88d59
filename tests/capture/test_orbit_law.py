"""Laws of the cameras of pictures that other generators make."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from v3d.cameras import orbit
from v3d.capture.orbit_law import orbit_law
from v3d.errors import V3DError
from v3d.placement import HALF_WIDTH
from v3d.settings import OrbitSettings


def test_v3ds_law_is_the_orbit() -> None:
    law = orbit_law(OrbitSettings(law="v3d"))
    assert torch.allclose(law.cameras(64).c2w, orbit(18, size=64).c2w, atol=1e-6)
    assert torch.equal(law.cameras(64).K, orbit(18, size=64).K)


def test_sv3d_ends_with_the_photo() -> None:
    law = orbit_law(OrbitSettings(law="sv3d", elevation=(12.0,)))
    assert law.azimuths[-1] == 0 and law.azimuths[0] == pytest.approx(360 / 21)
    assert law.elevations == (12.0,) * 21 and law.elevated and not law.directed


def test_zero123_alternates_above_and_below() -> None:
    """Version 1.1 as its model card says; 1.2 as InstantMesh's cameras."""
    new, old = (orbit_law(OrbitSettings(law=name)) for name in ("zero123++", "zero123++-1.1"))
    assert new.elevations == (20, -10, 20, -10, 20, -10) and old.elevations == (30, -20, 30, -20, 30, -20)
    assert new.azimuths == old.azimuths == (30, 90, 150, 210, 270, 330) and new.grid == (3, 2)
    z = new.cameras(64).centers[:, 2] / new.cameras(64).centers.norm(dim=-1)
    assert torch.allclose(z, torch.deg2rad(torch.tensor(new.elevations)).sin(), atol=1e-6)


def test_syncdreamers_camera_is_a_lens_of_35_on_32_millimetres() -> None:
    law = orbit_law(OrbitSettings(law="syncdreamer"))
    assert float(law.cameras(256).K[0, 0, 0]) == pytest.approx(256 * 35 / 32, rel=1e-4)
    assert len(law) == 16 and law.azimuths[1] == 22.5


def test_wonder3ds_rays_are_parallel_and_its_right_is_the_viewers() -> None:
    law = orbit_law(OrbitSettings(law="wonder3d"))
    cameras = law.cameras(256)
    corners = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    front, right = cameras.project(corners)[0][[0, 2]]
    # What is near and what is far have one size, to 3 %.
    heights = front[:, 1].view(2, 2, 2)[:, :, 0] - front[:, 1].view(2, 2, 2)[:, :, 1]
    assert float(heights.max() / heights.min()) < 1.03
    # From the front +y is to the right; the camera of the viewer's right stands there.
    assert float(front[2, 0] - front[0, 0]) > 0
    assert float(cameras.centers[law.sides.index("right"), 1]) > 1
    assert right.isfinite().all()


def test_every_law_sees_the_orbits_world_from_edge_to_edge() -> None:
    for name in ("v3d", "sv3d", "zero123++", "syncdreamer", "wonder3d"):
        cameras = orbit_law(OrbitSettings(law=name)).cameras(100)
        half = cameras.centers.norm(dim=-1) * 50 / cameras.K[:, 0, 0]
        assert torch.allclose(half, torch.full_like(half, HALF_WIDTH), rtol=1e-4)


def test_a_general_orbit_leaves_open_what_nobody_said() -> None:
    law = orbit_law(OrbitSettings(), 8)
    assert law.azimuths == tuple(45.0 * i for i in range(8)) and not law.directed and not law.elevated
    clockwise = orbit_law(OrbitSettings(direction="clockwise", elevation=(10.0,), fov=40.0), 8)
    assert clockwise.azimuths[1] == 315 and clockwise.directed and clockwise.elevated and clockwise.fov == 40
    listed = orbit_law(OrbitSettings(azimuths=(0.0, -90.0, 180.0), elevation=(0.0, 10.0, 20.0)))
    assert listed.azimuths == (0, 270, 180) and listed.elevations == (0, 10, 20) and listed.directed


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (OrbitSettings(law="sv3d", azimuths=(0.0, 90.0)), "makes 21 pictures; 2 azimuths"),
        (OrbitSettings(azimuths=(0.0, 1.0, 2.0), elevation=(1.0, 2.0)), "2 elevations are given for 3"),
    ],
)
def test_contradictions_are_one_sentence(settings: OrbitSettings, sentence: str) -> None:
    with pytest.raises(V3DError, match=sentence):
        orbit_law(settings)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"azimuths": (0.0, math.nan, 2.0)}, "azimuths is a number from .*, not nan"),
        ({"elevation": (90.0,)}, "elevation is a number from -90 to 90"),
        ({"fov": 180.0}, "fov is a number"),
    ],
)
def test_numbers_out_of_range_are_one_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(V3DError, match=sentence):
        OrbitSettings(**wrong)
