"""Cameras around what other cameras look at."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from difix3d_ns.geometry.orbits import converging, hemisphere, look_at_point
from difix3d_ns.geometry.pinhole import Pinhole
from tests.unit.known_scenes import look_at, straight

CENTRE = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


def around(*places: tuple[float, float], radius: float = 2.0) -> list[Pinhole]:
    """Cameras at azimuths and elevations (degrees) around the centre."""
    found = []
    for azimuth, elevation in places:
        a, e = math.radians(azimuth), math.radians(elevation)
        way = torch.tensor([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)], dtype=torch.float64)
        found.append(look_at((CENTRE + radius * way).tolist(), CENTRE.tolist()))
    return found


def angles(camera: Pinhole) -> tuple[float, float, float]:
    """Azimuth and elevation in degrees, and distance."""
    offset = camera.position.double() - CENTRE
    radius = float(offset.norm())
    azimuth = math.degrees(math.atan2(float(offset[1]), float(offset[0])))
    return azimuth, math.degrees(math.asin(float(offset[2]) / radius)), radius


def test_the_point_they_look_at() -> None:
    cameras = around((0, 20), (40, 35), (95, 10))
    torch.testing.assert_close(look_at_point(cameras), CENTRE, atol=1e-5, rtol=0)
    assert converging(cameras)


def test_parallel_cameras_look_at_no_point() -> None:
    cameras = [straight(x) for x in (0.0, 0.5, 1.0)]
    assert not converging(cameras)
    point = look_at_point(cameras)
    assert float(point[1]) > -4.0 and point.isfinite().all()  # before them


def test_cameras_back_to_back_do_not_converge() -> None:
    cameras = [look_at((0.0, 0.1, 0.0), (0.0, 5.0, 0.0)), look_at((0.0, -0.1, 0.0), (0.5, -5.0, 0.0))]
    assert not converging(cameras)
    assert not converging(cameras[:1])


def test_one_camera_looks_ahead() -> None:
    (camera,) = around((0, 0))
    assert float((look_at_point([camera]) - camera.position.double()) @ camera.forward.double()) > 0


@pytest.mark.parametrize("count", [1, 24])
def test_views_around(count: int) -> None:
    cameras = around((-10, 20), (30, 30), (70, 25), radius=3.0)
    views = hemisphere(cameras, count)
    assert len(views) == count
    for view in views:
        azimuth, elevation, radius = angles(view)
        assert -26 < azimuth < 86 and 9 < elevation < 41 and radius == pytest.approx(3.0, rel=1e-4)
        ahead = view.position.double() + radius * view.forward.double()
        torch.testing.assert_close(ahead, CENTRE, atol=1e-4, rtol=0)  # looks at the point
        assert float(view.camera_to_world[2, 0]) == pytest.approx(0, abs=1e-5)  # level: x has no height
        assert float(view.camera_to_world[2, 1]) < 0 and (view.width, view.height) == (96, 64)
        assert float(torch.linalg.det(view.camera_to_world[:3, :3])) == pytest.approx(1)
        nearest = max(float(view.forward @ camera.forward) for camera in cameras)
        assert nearest < math.cos(math.radians(3.5))  # repeats none
    assert len({angles(view) for view in views}) == count
    again = hemisphere(cameras, count)
    assert all(torch.equal(a.camera_to_world, b.camera_to_world) for a, b in zip(views, again, strict=True))


def test_a_full_circle() -> None:
    views = hemisphere(around((0, 20), (120, 20), (240, 20)), 64)
    azimuths = sorted(angles(view)[0] for view in views)
    assert max(b - a for a, b in itertools.pairwise(azimuths)) < 40
    assert azimuths[0] < -140 and azimuths[-1] > 140
