"""Closed solids: distances against points on their surface, and the ray caster against the distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from difix3d_ns.data.procedural import photograph_world, training_world
from difix3d_ns.data.procedural.bounding_volumes import BoundingVolumes
from difix3d_ns.data.procedural.ray_caster import render
from difix3d_ns.data.procedural.solids import Box, Capsule, Cylinder, Solid, Sphere, Union
from difix3d_ns.data.procedural.trajectories import pinhole
from difix3d_ns.data.procedural.worlds import WORLDS
from difix3d_ns.geometry.warp import unproject

SOLIDS = {
    "box": Box((0.1, -0.2, 0.3), (0.6, 0.4, 0.8), 0.7),
    "sphere": Sphere((0.2, 0.1, -0.1), 0.4),
    "capsule": Capsule((-0.2, 0, 0.1), (0.3, 0.2, 0.4), 0.25),
}


@pytest.mark.parametrize("solid", SOLIDS.values(), ids=list(SOLIDS))
def test_distance_is_that_to_the_nearest_point_of_the_surface(solid: Solid) -> None:
    rng = np.random.default_rng(0)
    way = rng.normal(size=(400_000, 3))
    if isinstance(solid, Box):
        face = rng.uniform(-0.5, 0.5, (400_000, 3))
        face[np.arange(400_000), rng.integers(3, size=400_000)] = rng.choice([-0.5, 0.5], 400_000)
        surface = np.asarray(solid.centre) + (face * np.asarray(solid.size)) @ solid._turn().T
    elif isinstance(solid, Sphere):
        surface = np.asarray(solid.centre) + solid.radius * way / np.linalg.norm(way, axis=1)[:, None]
    else:
        assert isinstance(solid, Capsule)
        base, axis = np.asarray(solid.base), np.asarray(solid.top) - np.asarray(solid.base)
        place, unit = rng.uniform(-0.5, 1.5, (400_000, 1)), axis / np.linalg.norm(axis)
        way -= (way @ unit)[:, None] * unit * ((place > 0) & (place < 1))  # at right angles to the tube
        candidates = base + place.clip(0, 1) * axis + solid.radius * way / np.linalg.norm(way, axis=1)[:, None]
        surface = candidates[np.abs(solid.distance(candidates)) < 1e-9]
        assert len(surface) > 50_000
    points = rng.uniform(-1, 1, (300, 3))
    nearest, _ = cKDTree(surface).query(points)
    np.testing.assert_allclose(np.abs(solid.distance(points)), nearest, atol=0.012)
    assert (solid.distance(surface + 1e-9) < 1e-6).all() and solid.distance(np.array([[5.0, 5, 5]]))[0] > 0


def test_distance_to_a_cylinder() -> None:
    rod = Cylinder((0, 0, 0), (0, 0, 2), 0.5)
    points = np.array([[0, 0, 1], [0, 0, 1.9], [0.4, 0, 1], [2, 0, 1], [0, 0, 3], [0.5 + 0.3, 0, 2 + 0.4]])
    np.testing.assert_allclose(rod.distance(points), [-0.5, -0.1, -0.1, 1.5, 1, 0.5])


def test_a_union_is_inside_where_a_part_is() -> None:
    parts = list(SOLIDS.values())
    union, points = Union(parts), np.random.default_rng(1).uniform(-1, 1, (1000, 3))
    inside = np.any([part.distance(points) < 0 for part in parts], axis=0)
    np.testing.assert_array_equal(union.distance(points) < 0, inside)
    assert 0 < inside.mean() < 1
    for seed in range(20):
        assert abs(union.distance(union.surface_point(np.random.default_rng(seed))[None])[0]) < 1e-6


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_seen_of_an_object_is_its_surface(seed: int) -> None:
    """Rays are traced by the distance alone: the same silhouette and depth as by the ray caster."""
    world = training_world(seed, "object")
    assert world.solid is not None
    camera = pinhole(world.path.pose(0.3), 60, 40, world.field_of_view)
    _, depth = render(world.scene, camera, 1, BoundingVolumes.build(world.scene))
    surface = unproject(depth.double(), camera)[depth[..., 0] > 0].numpy()
    assert np.abs(world.solid.distance(surface)).max() < 2e-4 and 0.05 < len(surface) / 2400 < 0.8

    far = unproject(torch.full_like(depth, 10.0).double(), camera).reshape(-1, 3).numpy()
    start = camera.position.double().numpy()
    length = np.linalg.norm(far - start, axis=1)
    way, gone = (far - start) / length[:, None], np.zeros(len(far))
    for _ in range(400):
        gone += world.solid.distance(start + gone[:, None] * way)
    hit, z = np.abs(world.solid.distance(start + gone[:, None] * way)) < 1e-4, 10 * gone / length
    seen = depth.flatten().numpy() > 0
    assert (hit == seen).mean() > 0.995  # at the very edge they may differ
    both = hit & seen
    assert np.quantile(np.abs(z[both] / depth.flatten().numpy()[both] - 1), 0.99) < 1e-3


def test_objects_are_photographed_from_all_around() -> None:
    views = photograph_world(
        training_world(4, "object"),
        np.random.default_rng(0),
        width=60,
        height=40,
        train_views=8,
        test_views=2,
        label=None,
    )
    azimuth = [np.arctan2(float(view.camera.position[1]), float(view.camera.position[0])) for view in views]
    assert len(views) == 10 and max(azimuth) - min(azimuth) > 4
    assert all(0.05 < float((view.depth > 0).float().mean()) < 0.8 for view in views)


def test_objects_take_no_turn() -> None:
    assert [*WORLDS] == ["room", "facade", "tabletop", "courtyard", "garden", "object", "grounded"]
    world = training_world(5)
    assert world.kind == "room" and world.solid is None
