"""Shards: what goes in comes out, webdataset reads them, damage is named, a write that fails leaves nothing."""

from __future__ import annotations

import io
import json
import resource
import tarfile

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from difix3d_ns.data.official import PROMPT, export_pairs
from difix3d_ns.data.shards import Sample, find_shards, read_shards, write_shard
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors.base import FixRequest


def camera(width: int, height: int, shift: float) -> Pinhole:
    pose = torch.eye(4)
    pose[0, 3] = shift
    return Pinhole(pose, torch.tensor([[50.0, 0, width / 2], [0, 51.5, height / 2], [0, 0, 1]]), width, height)


def sample(index: int, scene: str = "yard", references: int = 2, known: bool = True) -> Sample:
    g = torch.Generator().manual_seed(index)

    def picture(height: int, width: int, channels: int = 3) -> torch.Tensor:  # 8 bits exactly
        return torch.randint(0, 256, (height, width, channels), generator=g).float() / 255

    def depth(height: int, width: int) -> torch.Tensor:  # float16 exactly
        return (1 + 5 * torch.rand(height, width, 1, generator=g)).half().float()

    shown = [
        PosedImage(picture(16, 20), camera(20, 16, k), depth(16, 20), picture(16, 20, 1), picture(16, 20, 1))
        for k in range(references)
    ]
    request = FixRequest(picture(12, 18), shown, camera(18, 12, -1.0), depth(12, 18), picture(12, 18, 1))
    truths = torch.stack([depth(16, 20) for _ in shown]) if known and shown else None
    provenance = {"scene": scene, "strategy": "sparse", "seed": 0, "split": "train", "settings": {"steps": 7}}
    return Sample(
        f"{scene}/full/{index:04d}", request, picture(12, 18), depth(12, 18) if known else None, truths, provenance
    )


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "set" / "train" / "yard" / "full.tar"
    assert write_shard(path, [sample(i) for i in range(3)]) == [f"yard/full/{i:04d}" for i in range(3)]
    return path


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, Pinhole | PosedImage | FixRequest):
        return all(same(value, getattr(second, name)) for name, value in vars(first).items())
    return first == second


def test_samples_come_back_as_they_were(shard):
    found = list(read_shards([shard]))
    assert len(found) == 3
    for index, got in enumerate(found):
        assert same(sample(index), got)
    assert not same(sample(0), found[1])  # the comparison compares


@pytest.mark.parametrize(("references", "known"), [(0, True), (1, False)])
def test_what_is_unknown_stays_unknown(tmp_path, references, known):
    path = tmp_path / "a.tar"
    write_shard(path, [sample(4, references=references, known=known)])
    (got,) = read_shards([path])
    assert same(sample(4, references=references, known=known), got)
    assert got.reference_true_depths is None


def test_the_same_samples_give_the_same_bytes(shard, tmp_path):
    write_shard(tmp_path / "again.tar", [sample(i) for i in range(3)])
    assert shard.read_bytes() == (tmp_path / "again.tar").read_bytes()


def test_webdataset_reads_and_decodes_them(shard):
    entries = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode("rgb8"))
    assert [entry["__key__"] for entry in entries] == [f"yard/full/{i:04d}" for i in range(3)]
    for index, entry in enumerate(entries):
        wanted = sample(index)
        np.testing.assert_array_equal(entry["render.png"], (wanted.request.image * 255).round().byte().numpy())
        np.testing.assert_array_equal(entry["truth.png"], (wanted.truth * 255).round().byte().numpy())
        assert entry["depth.npy"].dtype == np.float16
        np.testing.assert_array_equal(
            entry["reference1.depth.npy"], wanted.request.references[1].depth[..., 0].numpy().astype(np.float16)
        )
        assert entry["json"]["camera"]["width"] == 18
        assert entry["json"]["provenance"] == wanted.provenance


def test_the_sidecar_lists_the_samples(tmp_path):
    write_shard(tmp_path / "a.tar", [sample(0)], lambda: {"psnr": 20.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"format": 1, "keys": ["yard/full/0000"], "psnr": 20.5}


def test_only_finished_shards_with_samples_are_found(shard):
    root = shard.parents[2]
    write_shard(root / "train/yard/nothing.tar", [])
    assert not (root / "train/yard/nothing.tar").exists()
    (root / "train/yard/unfinished.tar").write_bytes(shard.read_bytes())
    assert find_shards(root, "train") == [shard]
    with pytest.raises(UserError, match=r"set has no validation shards.*difix3d curate.*--split validation"):
        find_shards(root, "validation")
    with pytest.raises(UserError, match="elsewhere has no train shards"):
        find_shards(root / "elsewhere", "train")


def cut_in_a_file(data: bytes) -> bytes:
    return data[: len(data) // 2 + 100]


def cut_between_samples(data: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        first = next(member for member in archive if member.name.startswith("yard/full/0001"))
    return data[: first.offset] + bytes(1024)


def flipped_in_a_picture(data: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        where = archive.getmember("yard/full/0001.render.png").offset_data + 60
    return data[:where] + bytes([data[where] ^ 255]) + data[where + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: bytes(10240), id="no samples"),
        pytest.param(lambda data: b"\x01" * 5000, id="no tar"),
        pytest.param(cut_in_a_file, id="cut in a file"),
        pytest.param(cut_between_samples, id="cut between samples"),
        pytest.param(flipped_in_a_picture, id="flipped bits"),
    ],
)
def test_a_damaged_shard_is_named_with_the_remedy(shard, damage):
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(UserError, match=r"yard/full\.tar .*delete it and full\.json, and run difix3d curate again"):
        list(read_shards([shard]))


def test_a_missing_shard_and_a_damaged_sidecar_are_named(shard):
    shard.unlink()
    with pytest.raises(UserError, match=r"full\.tar cannot be read"):
        list(read_shards([shard]))
    for content in ("{", "[]", '{"format": 99, "keys": []}'):
        shard.with_suffix(".json").write_text(content)
        with pytest.raises(UserError, match=r"full\.json is "):
            find_shards(shard.parents[2], "train")


def test_a_write_that_fails_names_the_path_and_leaves_nothing(shard, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, before[1]))  # as a full disk: writing fails in the middle
    try:
        with pytest.raises(UserError, match=r"new/full\.tar cannot be written \(File too large\): make room"):
            write_shard(tmp_path / "new/full.tar", [sample(i) for i in range(20)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "new").iterdir()) == []
    assert len(list(read_shards([shard]))) == 3


def test_a_mistake_while_sampling_leaves_nothing(tmp_path):
    def samples():
        yield sample(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_shard(tmp_path / "a.tar", samples())
    assert list(tmp_path.iterdir()) == []


def test_the_official_layout(shard, tmp_path):
    write_shard(shard.parents[2] / "validation/barn/full.tar", [sample(9, "barn", references=0)])
    assert export_pairs(shard.parents[2], tmp_path / "official") == {"train": 3, "test": 1}
    data = json.loads((tmp_path / "official/data.json").read_text())
    assert list(data) == ["train", "test"]
    assert list(data["train"]) == [f"yard_full_{i:04d}" for i in range(3)]
    entry, wanted = data["train"]["yard_full_0001"], sample(1)
    assert set(entry) == {"image", "target_image", "ref_image", "prompt"}
    assert entry["prompt"] == PROMPT == "remove degradation"
    pictures = {
        "image": wanted.request.image,
        "target_image": wanted.truth,
        "ref_image": wanted.request.references[0].image,
    }
    for name, picture in pictures.items():
        with Image.open(entry[name]) as file:
            assert (file.format, file.mode) == ("PNG", "RGB")
            np.testing.assert_array_equal(np.array(file), (picture * 255).round().byte().numpy())
    assert "ref_image" not in data["test"]["barn_full_0009"]  # as the official code has it for samples without one


def test_exporting_needs_training_shards(tmp_path):
    with pytest.raises(UserError, match="has no train shards"):
        export_pairs(tmp_path, tmp_path / "out")
