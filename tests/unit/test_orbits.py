"""Cameras around what other cameras look at."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from difix3d_ns.geometry.orbits import circle, converging, hemisphere, look_at_point, orbit, surrounding, swing
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


def steps(cameras: list[Pinhole], closed: bool = True) -> torch.Tensor:
    """Distances between successive cameras, the last and the first included if the way is closed."""
    places = torch.stack([camera.position for camera in cameras])
    return (places - places.roll(-1, 0)).norm(dim=1)[: len(places) if closed else -1]


def looks_at_the_centre(camera: Pinhole) -> bool:
    ahead = camera.position.double() + angles(camera)[2] * camera.forward.double()
    level = abs(float(camera.camera_to_world[2, 0])) < 1e-5 and float(camera.camera_to_world[2, 1]) < 0
    return bool(torch.allclose(ahead, CENTRE, atol=1e-4)) and level


def test_an_orbit_of_cameras_on_a_ring_is_that_ring() -> None:
    ring = around(*((azimuth, 25) for azimuth in (10, 80, 100, 170, 240, 300)))
    views = orbit(ring, 36)
    assert len(views) == 36 and surrounding(ring)
    for view in views:
        _, elevation, radius = angles(view)
        assert elevation == pytest.approx(25, abs=1e-3) and radius == pytest.approx(2, abs=1e-4)
        assert looks_at_the_centre(view)
        assert (view.width, view.height) == (96, 64) and torch.equal(view.intrinsics, ring[0].intrinsics)
    assert angles(views[0])[0] == pytest.approx(10, abs=1e-3)
    apart = steps(views)  # even steps, also from the last to the first
    assert float(apart.max() - apart.min()) < 1e-4


def test_an_orbit_passes_through_a_tilted_ring() -> None:
    """A turntable that stood crooked, nearer on one side."""
    azimuths = range(0, 360, 20)
    tilted = [
        around((a, 30 + 12 * math.cos(math.radians(a))), radius=2 - 0.3 * math.sin(math.radians(a)))[0]
        for a in azimuths
    ]
    views = orbit(tilted, len(azimuths))
    missed = [float((a.position - b.position).norm()) for a, b in zip(views, tilted, strict=True)]
    assert max(missed) < 0.01
    assert all(looks_at_the_centre(view) for view in views)


def test_an_orbit_of_scattered_cameras_is_smooth_and_among_them() -> None:
    scattered = around(*((azimuth, 10 if azimuth % 60 else 45) for azimuth in range(0, 360, 30)))
    views = orbit(scattered, 120)
    found = [angles(view) for view in views]
    assert all(10 < elevation < 45 for _, elevation, _ in found)
    assert max(abs(a[1] - b[1]) for a, b in zip(found, [*found[1:], found[0]], strict=True)) < 3
    assert float(steps(views).max()) < 1.6 * float(steps(views).median())


def test_an_orbit_takes_the_intrinsics_of_the_nearest_camera() -> None:
    wide, long = around((0, 20), (180, 20))[0], around((0, 20), (180, 20))[1].resized(192, 128)
    views = orbit([wide, long, *around((90, 20), (270, 20))], 8)
    assert views[0].width == 96 and views[4].width == 192
    assert torch.equal(views[4].intrinsics, long.intrinsics)


def test_cameras_on_one_side_are_swung_past() -> None:
    arc = around((-40, 20), (0, 25), (50, 20))
    assert not surrounding(arc)
    views = swing(arc, 40)
    azimuths = [angles(view)[0] for view in views]
    assert azimuths[0] == pytest.approx(-40, abs=0.01) and azimuths[20] == pytest.approx(50, abs=0.01)
    assert azimuths[1:20] == pytest.approx(azimuths[:20:-1], abs=0.01)  # the same way back
    assert azimuths[:21] == sorted(azimuths[:21]) and all(looks_at_the_centre(view) for view in views)
    assert float(steps(views).max()) < 0.3 and float(steps(views)[-1]) < 0.1  # slow where it turns
    whole = orbit(arc, 40)  # passes the other side as well
    assert all(19.9 < angles(view)[1] < 25.1 for view in whole) and float(steps(whole).max()) < 0.35


def test_a_circle_has_all_of_a_box_in_its_pictures() -> None:
    low, high = torch.tensor([-1.0, 2, 0]), torch.tensor([3.0, 3, 2])
    corners = torch.stack(torch.meshgrid(*torch.stack([low, high], 1), indexing="ij"), -1).reshape(-1, 3)
    views = circle(low, high, 12, 90, 60)
    reached = []
    assert len(views) == 12 and float(steps(views).max() - steps(views).min()) < 1e-4
    for view in views:
        seen = (corners - view.position) @ view.camera_to_world[:3, :3]
        pixels = (seen @ view.intrinsics.T)[:, :2] / seen[:, 2:]
        assert (seen[:, 2] > 0).all() and (pixels > 0).all() and (pixels < torch.tensor([90.0, 60])).all()
        reached.append(float((pixels / torch.tensor([90.0, 60]) - 0.5).abs().max()))
        assert float(view.camera_to_world[2, 1]) < 0 and float(view.forward[2]) < 0  # upright, from above
    assert 0.45 < max(reached) < 0.5  # no smaller than need be
