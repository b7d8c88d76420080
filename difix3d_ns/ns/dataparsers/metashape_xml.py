"""Cameras that Agisoft Metashape exports as XML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from nerfstudio.cameras.cameras import CameraType

from difix3d_ns.errors import UserError
from difix3d_ns.ns.dataparsers.colmap_model import find_pictures
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene, Frame, Lens

_TURN = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""the axes that ns-process-data gives such captures"""


def is_metashape(path: Path) -> bool:
    """Return whether an XML file has cameras of Metashape."""
    with path.open("rb") as file:
        start = file.read(4096)
    return b"<chunk" in start and b"<sensor" in start


def read_metashape(path: Path, images: Path) -> DescribedScene:
    """Read poses and lenses, the adjusted ones where there are two.

    Args:
        path: the XML file of `File > Export > Export Cameras`.
        images: the folder with the pictures.

    Raises:
        UserError: the file cannot be read, a lens cannot be used, or no picture is found.
    """
    try:
        root = ElementTree.parse(path).getroot()
        chunk = root.find("chunk")
        if chunk is None:
            raise ValueError("it has no chunk")
        sensors = {sensor.get("id"): sensor for sensor in chunk.iter("sensor")}
        world = {part.get("id"): _similarity(part.find("transform")) for part in chunk.iter("component")}
        cameras = [camera for camera in chunk.iter("camera") if camera.find("transform") is not None]
        unaligned = sum(1 for _ in chunk.iter("camera")) - len(cameras)
        labels = [camera.get("label", "") for camera in cameras]
        pictures = find_pictures(images, labels)
        lenses: dict[str | None, Lens] = {}
        skews: dict[str | None, float] = {}
        frames = []
        for camera, label in zip(cameras, labels, strict=True):
            if label not in pictures:
                continue
            number = camera.get("sensor_id")
            if number not in lenses:
                lenses[number], skews[number] = _lens(sensors[number], path)
            rotation, translation, scale = world.get(camera.get("component_id"), _similarity(None))
            local = np.array(_numbers(camera.find("transform"))).reshape(4, 4)
            pose = np.eye(4)
            pose[:3, :3] = rotation @ local[:3, :3] * [1, -1, -1]
            pose[:3, 3] = scale * rotation @ local[:3, 3] + translation
            frames.append(Frame(label, pictures[label], _TURN @ pose, lenses[number]))
    except (ElementTree.ParseError, ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); export the cameras from Metashape again") from error
    if not frames:
        raise UserError(
            f"{path} has {len(cameras)} aligned cameras, and {images} no picture named like one "
            f"({', '.join(labels[:3]) or 'there is none'}); put the pictures there"
        )
    notes = [f"{path} has no 3D points; training starts from random ones. Metashape's COLMAP export has them."]
    if unaligned or len(frames) < len(cameras):
        notes.append(
            f"{path}: {unaligned} cameras are not aligned and {len(cameras) - len(frames)} have no picture in {images}."
        )
    if any(skews.values()):
        worst = max(abs(skew) * lenses[number].height / 2 / lenses[number].fy for number, skew in skews.items())
        notes.append(f"{path}: the skew b2 is left out, which moves pixels by up to {worst:.2f}.")
    frames.sort(key=lambda frame: frame.image)
    return DescribedScene(source=path, frames=frames, applied_transform=_TURN[:3], notes=notes)


def _lens(sensor: ElementTree.Element, path: Path) -> tuple[Lens, float]:
    """Lens of a sensor, and its skew.

    Metashape's p1 and p2 are nerfstudio's p2 and p1 but for FISHEYE624, which has them in the same order.
    """
    kind, label = sensor.get("type"), sensor.get("label")
    if kind not in ("frame", "fisheye"):
        raise UserError(
            f"{path}: the sensor {label!r} is of the type {kind}, which splats cannot be trained on; "
            "convert the pictures to perspective ones in Metashape and export again"
        )
    calibrations = sensor.findall("calibration")
    adjusted = [entry for entry in calibrations if entry.get("class") == "adjusted"] or calibrations
    if not adjusted:
        raise UserError(f"{path}: the sensor {label!r} has no calibration; align the photos in Metashape first")
    given = {entry.tag: _numbers(entry)[0] for entry in adjusted[-1] if entry.tag in _PARAMETERS}
    size = sensor.find("resolution")
    if size is None:
        size = adjusted[-1].find("resolution")
    if size is None or "f" not in given:
        raise ValueError(f"the sensor {label!r} has no resolution or focal length")
    width, height = int(size.get("width", 0)), int(size.get("height", 0))
    k1, k2, k3, k4, p1, p2 = (given.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    camera_type, distortion = CameraType.PERSPECTIVE, (k1, k2, k3, k4, p2, p1)
    if kind == "fisheye":
        camera_type, distortion = CameraType.FISHEYE, (k1, k2, k3, k4, 0.0, 0.0)
        if p1 or p2:
            camera_type = CameraType.FISHEYE624
            distortion = (k1, k2, k3, k4, 0.0, 0.0, p1, p2, 0.0, 0.0, 0.0, 0.0)  # type: ignore[assignment]
    lens = Lens(
        width,
        height,
        given["f"] + given.get("b1", 0.0),
        given["f"],
        width / 2 + given.get("cx", 0.0),
        height / 2 + given.get("cy", 0.0),
        camera_type,
        distortion,
    )
    return lens, given.get("b2", 0.0)


_PARAMETERS = ("f", "cx", "cy", "b1", "b2", "k1", "k2", "k3", "k4", "p1", "p2")


def _similarity(transform: ElementTree.Element | None) -> tuple[np.ndarray, np.ndarray, float]:
    """Rotation [3, 3], translation [3] and scale of an element; what it lacks does nothing."""
    found = {tag: None if transform is None else transform.find(tag) for tag in ("rotation", "translation", "scale")}
    rotation, translation, scale = found["rotation"], found["translation"], found["scale"]
    return (
        np.eye(3) if rotation is None else np.array(_numbers(rotation)).reshape(3, 3),
        np.zeros(3) if translation is None else np.array(_numbers(translation)),
        1.0 if scale is None else _numbers(scale)[0],
    )


def _numbers(element: ElementTree.Element | None) -> Sequence[float]:
    return [float(word) for word in (element.text or "").split()] if element is not None else []
