"""Photos to train on and photos held out."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.utils.dataparsers_utils import (
    get_train_eval_split_all,
    get_train_eval_split_filename,
    get_train_eval_split_fraction,
    get_train_eval_split_interval,
)

from difix3d_ns.errors import UserError
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene

ALL_TRAIN = 9
"""photos up to which none is held out: each counts in a sparse capture"""
INTERVAL = 8
"""of more, every so many-th is held out"""
_SHOWN = 6  # names in the log
_FLAGS = ("eval_mode", "train_split_fraction", "eval_interval")
_REMEDIES = {
    "NerfstudioDataParserConfig": "nerfstudio-data --eval-mode interval --load-3D-points True",
    "ColmapDataParserConfig": "colmap --eval-interval 4",
    "InstantNGPDataParserConfig": "instant-ngp-data --eval-mode interval",
}


class Split(NamedTuple):
    """Indices of a scene's frames."""

    train: list[int]
    val: list[int]
    test: list[int]
    note: str | None = None  # for the log

    def of(self, split: str) -> list[int]:
        """Return the indices of a split by its name.

        Raises:
            ValueError: there is no such split.
        """
        if split not in ("train", "val", "test"):
            raise ValueError(f"unknown split {split!r}")
        return list(getattr(self, split))


def split_scene(scene: DescribedScene, config: DataParserConfig) -> Split:
    """Split a scene: by its own lists, else by the flags, else every eighth if there are enough photos.

    Args:
        scene: as described.
        config: of any dataparser; those without ``eval_mode`` have no flags.

    Raises:
        UserError: file names do not say what the flags say they do.
    """
    if scene.splits:
        return _listed(scene)
    if not _untouched(config):
        return _by_flags(scene, config)
    count = len(scene.frames)
    if count <= ALL_TRAIN:
        return Split(list(range(count)), [], [], _none_held_out(scene, config))
    held_out = list(range(0, count, INTERVAL))
    names = [scene.frames[index].image.name for index in held_out]
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    note = f"{len(held_out)} of {count} photos are held out for evaluation, every {INTERVAL}th: {shown}"
    return Split([index for index in range(count) if index % INTERVAL], held_out, held_out, note)


def _listed(scene: DescribedScene) -> Split:
    listed = {split: set(names) for split, names in scene.splits.items()}
    by_split = {
        split: [index for index, frame in enumerate(scene.frames) if frame.name in names]
        for split, names in listed.items()
    }
    everything = list(range(len(scene.frames)))
    if "train" not in by_split:
        held_out = {index for indices in by_split.values() for index in indices}
        by_split["train"] = [index for index in everything if index not in held_out]
    if "val" not in by_split and "test" not in by_split:
        trained = set(by_split["train"])
        by_split["val"] = [index for index in everything if index not in trained]
    val = by_split.get("val", by_split.get("test", []))
    return Split(by_split["train"], val, by_split.get("test", val))


def _untouched(config: DataParserConfig) -> bool:
    """Return whether the flags for splits are those the dataparser has by default."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return all(getattr(config, flag) == defaults[flag] for flag in _FLAGS if flag in defaults)


def _by_flags(scene: DescribedScene, config: Any) -> Split:
    files = [frame.image for frame in scene.frames]
    try:
        if config.eval_mode == "fraction":
            train, held_out = get_train_eval_split_fraction(files, config.train_split_fraction)
        elif config.eval_mode == "filename":
            train, held_out = get_train_eval_split_filename(files)
        elif config.eval_mode == "interval":
            train, held_out = get_train_eval_split_interval(files, config.eval_interval)
        else:
            train, held_out = get_train_eval_split_all(files)
    except (ValueError, ZeroDivisionError, AssertionError) as error:
        raise UserError(f"--eval-mode {config.eval_mode} cannot split {scene.source}: {error}") from error
    return Split([int(i) for i in train], [int(i) for i in held_out], [int(i) for i in held_out])


def _none_held_out(scene: DescribedScene, config: DataParserConfig) -> str:
    remedies = [f"list some under `val_filenames` in {scene.source.name}"] if scene.source.suffix == ".json" else []
    kind = _REMEDIES.get(type(config).__name__)
    remedies += [f"end the command with `{kind}`"] if kind is not None else []
    return (
        f"All {len(scene.frames)} photos are trained on and none is held out for evaluation; to hold some out, "
        + " or ".join(remedies)
    )
