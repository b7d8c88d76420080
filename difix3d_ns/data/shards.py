"""Samples on disk: tar files that webdataset reads, each with a JSON file beside it that lists what is in it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.io.atomic import replacing, write_json
from difix3d_ns.priors.base import FixRequest

FORMAT = 1
Split = Literal["train", "validation"]
_PNG_EFFORT = 3  # a quarter of the default's time for a few per cent more bytes


class CannotWrite(UserError):
    """The output folder takes nothing more: no use in going on."""


class Sample(NamedTuple):
    """A degraded render with everything a fixer may know, and the truth."""

    key: str  # "<scene>/<unit>/<view>", unique
    request: FixRequest  # render; references best first, with camera, median depth, alpha, mask; camera, depth, alpha
    truth: Tensor  # [H, W, 3] in [0, 1]
    true_depth: Tensor | None  # [H, W, 1] along z where it is known exactly, 0 = sky
    reference_true_depths: Tensor | None  # [K, H, W, 1]
    provenance: dict[str, Any]  # scene, strategy, settings, seed, split, version, ...


def find_shards(root: Path, split: Split) -> list[Path]:
    """Finished shards of a split, ``root/<split>/<scene>/<unit>.tar``; those still being written do not count.

    Raises:
        UserError: there is none.
    """
    lists = sorted(Path(root).glob(f"{split}/*/[!.]*.json"))  # hidden ones are being written
    shards = [path.with_suffix(".tar") for path in lists if keys_of(path)]
    if not shards:
        option = "" if split == "train" else " --split validation"
        raise UserError(
            f"{root} has no {split} shards: make some, e.g. difix3d curate procedural:8 --output {root}{option}"
        )
    return shards


def read_sidecar(path: Path) -> dict[str, Any]:
    """The JSON file beside a shard: format, keys, provenance and measurements.

    Raises:
        UserError: it is damaged or of another format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = content["format"] == FORMAT and isinstance(content["keys"], list)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run difix3d curate again") from error
    if not known:
        raise UserError(f"{path} is of another format: delete its shard and run difix3d curate again")
    return content


def keys_of(shard: Path) -> list[str]:
    """Keys of a finished shard's samples, in order. Raises UserError; see ``read_sidecar``."""
    return read_sidecar(shard.with_suffix(".json"))["keys"]


def read_shards(paths: Sequence[Path]) -> Iterator[Sample]:
    """Stream the samples of some shards, in order; one sample is in memory at a time.

    Raises:
        UserError: a shard is missing, empty, damaged, or does not hold what its sidecar lists.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for path in paths:
        path = Path(path)
        keys = []
        try:
            with open(path, "rb") as stream:
                for entry in group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])):
                    keys.append(entry["__key__"])
                    yield _decode(entry)
        except (OSError, tarfile.TarError, KeyError, ValueError, TypeError, IndexError, EOFError, SyntaxError) as error:
            raise UserError(_damage(path, f"cannot be read ({error!r})")) from error
        sidecar = path.with_suffix(".json")
        if not keys or (sidecar.is_file() and keys != keys_of(path)):
            raise UserError(_damage(path, f"holds {len(keys)} samples, not those that {sidecar.name} lists"))


def write_shard(path: Path, samples: Iterable[Sample], notes: Callable[[], Mapping[str, Any]] = dict) -> list[str]:
    """Write a shard whole or not at all; its sidecar comes last, so that a shard with one is finished.

    Without samples only the sidecar is written, which marks the unit as done.

    Args:
        path: of the tar file; its folder is made.
        samples: in the order they are read in.
        notes: for the sidecar, asked when all samples are written.

    Returns:
        The keys.

    Raises:
        CannotWrite: a full disk, say.
    """
    from webdataset.writer import TarWriter

    keys: list[str] = []
    try:
        with replacing(path) as part:
            # No time of day: the same samples give the same bytes.
            with open(part, "wb") as file, TarWriter(file, encoder=False, mtime=0) as writer:
                for sample in samples:
                    writer.write(_encode(sample))
                    keys.append(sample.key)
            if not keys:
                part.unlink()
        write_json(path.with_suffix(".json"), {"format": FORMAT, "keys": keys, **notes()})
    except OSError as error:
        raise CannotWrite(
            f"{path} cannot be written ({error.strerror or error}): make room and start again, finished shards are kept"
        ) from error
    return keys


def _damage(path: Path, what: str) -> str:
    return f"{path} {what}: delete it and {path.with_suffix('.json').name}, and run difix3d curate again"


def _encode(sample: Sample) -> dict[str, Any]:
    """Files of a sample by their endings, as webdataset names them."""
    request = sample.request
    entry: dict[str, Any] = {"__key__": sample.key}
    entry["render.png"], entry["truth.png"] = _png(request.image), _png(sample.truth)
    entry |= _planes("", request.depth, request.alpha, None, sample.true_depth)
    for k, reference in enumerate(request.references):
        truth = None if sample.reference_true_depths is None else sample.reference_true_depths[k]
        entry[f"reference{k}.png"] = _png(reference.image)
        entry |= _planes(f"reference{k}.", reference.depth, reference.alpha, reference.mask, truth)
    content = {
        "camera": _camera_to_json(request.camera),
        "references": [_camera_to_json(reference.camera) for reference in request.references],
        "provenance": sample.provenance,
    }
    entry["json"] = json.dumps(content, sort_keys=True).encode()
    return entry


def _decode(entry: Mapping[str, Any]) -> Sample:
    content = json.loads(entry["json"])
    references = [
        PosedImage(
            _picture(entry[f"reference{k}.png"]),
            _camera_from_json(camera),
            _depth(entry.get(f"reference{k}.depth.npy")),
            _plane(entry.get(f"reference{k}.alpha.png")),
            _plane(entry.get(f"reference{k}.mask.png")),
        )
        for k, camera in enumerate(content["references"])
    ]
    depths = [_depth(entry.get(f"reference{k}.true_depth.npy")) for k in range(len(references))]
    known = [depth for depth in depths if depth is not None]
    request = FixRequest(
        _picture(entry["render.png"]),
        references,
        _camera_from_json(content["camera"]),
        _depth(entry.get("depth.npy")),
        _plane(entry.get("alpha.png")),
    )
    truth = _picture(entry["truth.png"])
    if truth.shape != request.image.shape:
        raise ValueError(f"{entry['__key__']}: render and truth differ in size")
    return Sample(
        entry["__key__"],
        request,
        truth,
        _depth(entry.get("true_depth.npy")),
        torch.stack(known) if known and len(known) == len(depths) else None,
        content["provenance"],
    )


def _planes(
    prefix: str, depth: Tensor | None, alpha: Tensor | None, mask: Tensor | None, true_depth: Tensor | None
) -> dict[str, bytes]:
    planes = {}
    for name, values in (("depth", depth), ("true_depth", true_depth)):
        if values is not None:
            planes[f"{prefix}{name}.npy"] = _npy(values)
    for name, values in (("alpha", alpha), ("mask", mask)):
        if values is not None:
            planes[f"{prefix}{name}.png"] = _png(values)
    return planes


def _png(values: Tensor) -> bytes:  # [H, W, 1 or 3] in [0, 1]
    pixels = (values.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        file, format="png", compress_level=_PNG_EFFORT
    )
    return file.getvalue()


def _npy(depth: Tensor) -> bytes:  # [H, W, 1] -> [H, W] float16
    largest = torch.finfo(torch.float16).max
    file = io.BytesIO()
    np.save(file, depth.detach().cpu()[..., 0].clamp(0, largest).half().numpy())
    return file.getvalue()


def _picture(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as file:
        pixels = np.array(file)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).float() / 255


def _plane(data: bytes | None) -> Tensor | None:
    return None if data is None else _picture(data)


def _depth(data: bytes | None) -> Tensor | None:
    return None if data is None else torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False)).float()[..., None]


def _camera_to_json(camera: Pinhole | None) -> dict[str, Any] | None:
    if camera is None:
        return None
    return {
        "camera_to_world": camera.camera_to_world.tolist(),
        "intrinsics": camera.intrinsics.tolist(),
        "width": camera.width,
        "height": camera.height,
    }


def _camera_from_json(content: Mapping[str, Any] | None) -> Pinhole | None:
    if content is None:
        return None
    pose, intrinsics = torch.tensor(content["camera_to_world"]), torch.tensor(content["intrinsics"])
    return Pinhole(pose, intrinsics, content["width"], content["height"])
