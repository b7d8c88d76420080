"""Inputs that cannot work, and the commands that are given them; run by `python -m benchmarks.reliability inputs`."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METHOD = "difix3d-splatfacto"
CPU = ("--machine.device-type", "cpu", "--vis", "tensorboard", "--max-num-iterations", 2)
Words = list[object]


class Place:
    """A folder in which bad inputs are made.

    Args:
        folder: they are written to.
        scene: a good one.
    """

    def __init__(self, folder: Path, scene: Path) -> None:
        self.folder, self.scene = folder, scene
        self._count = 0

    def path(self, name: str) -> Path:
        """A path in a folder of its own, which is made."""
        self._count += 1
        folder = self.folder / f"input_{self._count:02d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder / name

    def file(self, name: str, content: bytes = b"") -> Path:
        """A file of a content."""
        path = self.path(name)
        path.write_bytes(content)
        return path

    def photo(self, number: int = 0) -> Path:
        """A photo of the good scene."""
        return sorted((self.scene / "images").iterdir())[number]

    def photos(self, count: int) -> Path:
        """A folder of photos without cameras."""
        folder = self.path("photos")
        folder.mkdir()
        for number in range(count):
            shutil.copy(self.photo(number), folder)
        return folder

    def changed(self, change: Callable[[dict[str, Any]], object], name: str = "scene") -> Path:
        """A copy of the good scene whose transforms.json was changed."""
        folder = self.path(name)
        shutil.copytree(self.scene, folder)
        file = folder / "transforms.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return folder

    def damaged(self, pattern: str, content: Callable[[bytes], bytes] | None) -> Path:
        """A copy of the good scene in which the first file of a pattern has another content, or is missing."""
        folder = self.changed(lambda content: None)
        file = min(folder.glob(pattern))
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content(file.read_bytes()))
        return folder

    def shown(self, words: Sequence[object]) -> str:
        """A command line with short paths."""
        line = " ".join(str(word) for word in words).replace(f"{self.folder}/", "")
        line = re.sub(r"input_\d+/", "", line)
        for flag in (" --machine.device-type cpu --vis tensorboard --max-num-iterations 2", " --output-dir outputs"):
            line = line.replace(flag, "")
        return line


@dataclass(frozen=True)
class Case:
    """A command that has to fail, or to go on and say so.

    Args:
        command: makes its input and returns the words of the command line.
        names: what the message has to contain: the flag, the file or the remedy.
        goes_on: the command succeeds without what is bad; ``names`` begins its message.
    """

    command: Callable[[Place], Words]
    names: str
    goes_on: bool = False

    def message(self, text: str, short: Mapping[Path, str]) -> str:
        """Message in what the command wrote, in one line, with short paths."""
        if not self.goes_on:
            return message_of(text, short)
        plain = re.sub(r"\S+\.py:\d+", " ", text)  # places in code, at the right of a log
        said = plain[plain.find(self.names) :] if self.names in plain else ""
        return message_of("Error: " + ". ".join(" ".join(said.split()).split(". ")[:1]), short)

    def passed(self, status: int, text: str, message: str) -> bool:
        """Whether a command with this exit status, output and message did what it should."""
        expected = status == 0 if self.goes_on else status in (1, 2)
        return expected and "Traceback" not in text and self.names.lower() in message.lower()


def message_of(text: str, short: Mapping[Path, str]) -> str:
    """Message of a command: what stands after the first "Error", in one line, with short paths."""
    plain = re.sub(r"[│╭╮╰╯─]+", " ", text)
    at = re.search(r"Error:|Error parsing|Parsing error|Unrecognized", plain)
    line = " ".join(plain[at.start() if at else -600 :].split())
    for folder, name in {Path(sys.executable).parent: ".", **short}.items():
        line = line.replace(f"{folder}/", "" if name == "." else f"{name}/").replace(str(folder), name)
    return re.sub(r"input_\d+/", "", line).removeprefix("Error: ")


def _train(place: Place, *flags: object, method: str = METHOD, data: Path | None = None) -> Words:
    where = ("--data", data or place.scene, "--output-dir", place.folder / "outputs")
    return ["ns-train", method, *where, *CPU, *flags]


def _scene(change: Callable[[dict[str, Any]], object], names: str) -> Case:
    return Case(lambda place: _train(place, data=place.changed(change)), names)


def _flags(*flags: object, names: str = "", method: str = METHOD) -> Case:
    return Case(lambda place: _train(place, *flags, method=method), names or str(flags[0]))


def _first(**values: object) -> Callable[[dict[str, Any]], object]:
    """A change of the first training frame."""
    return lambda content: _training_frame(content).update(values)


def _training_frame(content: dict[str, Any]) -> dict[str, Any]:
    names = content["train_filenames"]
    return next(frame for frame in content["frames"] if frame["file_path"] in names)


def _without(*keys: str) -> Callable[[dict[str, Any]], object]:
    def remove(content: dict[str, Any]) -> None:
        for mapping in (content, *content["frames"]):
            for key in keys:
                mapping.pop(key, None)

    return remove


def _same_place(content: dict[str, Any]) -> None:
    for frame in content["frames"]:
        for row, value in zip(frame["transform_matrix"], (1.0, 2.0, 3.0, 1.0), strict=True):
            row[3] = value


class _Harmful:
    """A pickle that would write a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/tmp/reliability_was_here", "w"))


NAN_POSE = [[float("nan")] * 4] * 4

CASES: dict[str, Case] = {
    # scenes
    "no such folder": Case(lambda p: _train(p, data=p.folder / "nowhere"), "does not exist"),
    "an empty folder": Case(lambda p: _train(p, data=p.path("x").parent), "transforms.json"),
    "photos without cameras": Case(lambda p: _train(p, data=p.photos(3)), "difix3d pose"),
    "a video": Case(lambda p: _train(p, data=p.file("walk.mp4", b"\0" * 64)), "difix3d pose"),
    "a file of a COLMAP model": Case(lambda p: _train(p, data=p.file("cameras.bin", b"\0" * 8)), "--data"),
    "half a transforms.json": Case(
        lambda p: _train(p, data=p.damaged("transforms.json", lambda b: b[: len(b) // 2])), "transforms.json"
    ),
    "no frames": _scene(lambda content: content.update(frames=[]), "frames"),
    "a frame without a file": _scene(lambda content: _training_frame(content).pop("file_path"), "file_path"),
    "a frame without a pose": _scene(
        lambda content: _training_frame(content).pop("transform_matrix"), "transform_matrix"
    ),
    "a pose of 3 x 3": _scene(_first(transform_matrix=[[1, 0, 0], [0, 1, 0], [0, 0, 1]]), "4 x 4"),
    "a pose of NaN": _scene(_first(transform_matrix=NAN_POSE), "not finite"),
    "no focal length": _scene(_without("fl_x", "fl_y", "camera_angle_x", "camera_angle_y"), "focal length"),
    "a focal length of 0": _scene(lambda c: [m.update(fl_x=0.0) for m in (c, *c["frames"])], "above 0"),
    "a focal length in words": _scene(_first(fl_x="wide"), "a number is needed"),
    "width and height exchanged": _scene(lambda c: [m.update(w=96, h=128) for m in (c, *c["frames"])], "96"),
    "a panorama": _scene(_first(camera_model="EQUIRECTANGULAR"), "EQUIRECTANGULAR"),
    "an unknown lens": _scene(_first(camera_model="BANANA"), "BANANA"),
    "all photos from one place": _scene(_same_place, "add images from other places"),
    "a held-out photo that is not there": _scene(
        lambda c: c["test_filenames"].append("images/none.png"), "test_filenames"
    ),
    "everything held out": _scene(
        lambda c: c.update(test_filenames=[f["file_path"] for f in c["frames"]], train_filenames=[]), "train_filenames"
    ),
    "a photo is missing": Case(lambda p: _train(p, data=p.damaged("images/*", None)), "missing"),
    "half a photo": Case(
        lambda p: _train(p, data=p.damaged("images/*", lambda b: b[: len(b) // 2])), "cannot be read as a picture"
    ),
    "text named as a photo": Case(lambda p: _train(p, data=p.damaged("images/*", lambda b: b"hello")), "picture"),
    "a mask is missing": _scene(_first(mask_path="masks/none.png"), "mask"),
    "initial points are missing": Case(
        lambda p: _train(p, data=p.damaged("*.ply", None)), "No initial points", goes_on=True
    ),
    "half a file of points": Case(lambda p: _train(p, data=p.damaged("*.ply", lambda b: b[: len(b) // 2])), ".ply"),
    # flags of ns-train
    "a misspelt flag": _flags("--pipeline.guidance.ruonds", 2),
    "text for a number": _flags("--pipeline.guidance.rounds", "two", names="rounds"),
    "rounds below 0": _flags("--pipeline.guidance.rounds", -1),
    "no steps": _flags("--max-num-iterations", 0),
    "CUDA without a GPU": _flags("--machine.device-type", "cuda"),
    "a misspelt fixer": _flags("--pipeline.guidance.fixer.name", "embeded", names="embedded"),
    "weights that are not there": Case(
        lambda p: _train(p, "--pipeline.guidance.fixer.weights", p.folder / "none.safetensors"), "none.safetensors"
    ),
    "weights of text": Case(
        lambda p: _train(p, "--pipeline.guidance.fixer.weights", p.file("w.safetensors", b"hello")), "w.json"
    ),
    "dropout above 1": _flags("--pipeline.model.gaussian-dropout", 1.5),
    "a camera path without its file": _flags("--pipeline.guidance.targets.kind", "camera-path", names="camera-path"),
    "two models of exposure": _flags(
        *("--pipeline.model.exposure", "True", "--pipeline.model.use-bilateral-grid", "True"), names="leave one out"
    ),
    "a factor of 7": _flags("--pipeline.guidance.factor", 7, method="3dsr-splatfacto"),
    "an orbit at the end": _flags("--pipeline.guidance.begin", 1, method="hi3d-splatfacto"),
    "a service that is not installed": _flags("--vis", "wandb"),
    "a folder without a checkpoint": Case(lambda p: _train(p, "--load-dir", p.path("x").parent), "--load-dir"),
    "half a checkpoint": Case(
        lambda p: _train(p, "--load-checkpoint", p.file("step-000000009.ckpt", b"PK\3\4 half")), "step-000000009.ckpt"
    ),
    "a checkpoint that runs code": Case(
        lambda p: _train(p, "--load-checkpoint", p.file("step-000000009.ckpt", pickle.dumps(_Harmful()))),
        "step-000000009.ckpt",
    ),
    "a splat that is a picture": Case(lambda p: _train(p, "--load-ply", p.file("splat.ply", b"hello")), "splat.ply"),
    # other commands
    "a misspelt command": Case(lambda p: ["difix3d", "exprot"], "did you mean export"),
    "fix: no such picture": Case(lambda p: ["difix3d", "fix", "none.png", "--output", "f.png"], "none.png does not"),
    "fix: text named as a picture": Case(
        lambda p: ["difix3d", "fix", p.file("a.png", b"hello"), "--output", p.folder / "f.png", "--scene", p.scene],
        "a.png",
    ),
    "fix: over the input": Case(
        lambda p: ["difix3d", "fix", (a := p.file("a.png", p.photo().read_bytes())), "--output", a], "overwrite"
    ),
    "fix: an unknown ending": Case(
        lambda p: ["difix3d", "fix", p.photo(), "--output", p.folder / "f.xyz"], "must end in"
    ),
    "fix: no reference there": Case(
        lambda p: ["difix3d", "fix", p.photo(), "--reference", "none.jpg", "--output", "f.png"], "--reference"
    ),
    "upscale: a misspelt upscaler": Case(
        lambda p: ["difix3d", "upscale", p.photo(), "--output", p.folder / "u.png", "--upscaler", "resdiual"],
        "--upscaler",
    ),
    "depth: over the scene": Case(lambda p: ["difix3d", "depth", p.scene, "--output", p.scene], "give another folder"),
    "pose: two photos": Case(lambda p: ["difix3d", "pose", p.photos(2), "--output", p.folder / "posed"], "too few"),
    "pose: no such folder": Case(lambda p: ["difix3d", "pose", "none", "--output", p.folder / "posed"], "none"),
    "export: no training": Case(lambda p: ["difix3d", "export", "none/config.yml", "--output", "s.ply"], "config.yml"),
    "export: an unknown ending": Case(
        lambda p: ["difix3d", "export", "config.yml", "--output", p.folder / "s.xyz"], "must end in"
    ),
    "mesh: a splat without its photos": Case(
        lambda p: ["difix3d", "mesh", p.file("s.ply", b"ply"), "--output", p.folder / "m.glb"], "--data"
    ),
    "mesh: half a box": Case(lambda p: ["difix3d", "mesh", "config.yml", "--obb-center", "0", "0", "0"], "--obb-scale"),
    "enhance: a splat of text": Case(
        lambda p: ["difix3d", "enhance", p.file("s.ply", b"hello"), "--data", p.scene], "s.ply"
    ),
    "report: an empty folder": Case(lambda p: ["difix3d", "report", p.path("x").parent], "training"),
    "turntable: an unknown ending": Case(
        lambda p: ["difix3d", "turntable", "config.yml", "--output", p.folder / "t.avi"], "--output"
    ),
    "compare: no training": Case(
        lambda p: ["difix3d", "compare", "none/config.yml", "none/config.yml", "--output", p.folder / "c.mp4"],
        "config.yml",
    ),
    "convert: no base": Case(lambda p: ["difix3d", "convert", p.file("m.pkl"), "--output", p.folder / "w"], "--base"),
    "bench: no scene": Case(lambda p: ["difix3d", "bench", "--output", p.folder / "bench"], "no scene"),
    "train-prior: an unknown recipe": Case(
        lambda p: ["difix3d", "train-prior", "none", "--output", p.folder / "prior"], "recipe"
    ),
}
"""what a person might do wrong, by what it is"""
