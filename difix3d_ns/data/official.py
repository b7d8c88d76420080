"""Samples in the layout that the official Difix training code reads: PNG files and a ``data.json``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from difix3d_ns.data.shards import Sample, Split, find_shards, keys_of, read_shards
from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import write_json
from difix3d_ns.io.images import write_picture
from difix3d_ns.io.progress import progress_bar

PROMPT = "remove degradation"
_SPLITS: dict[str, Split] = {"train": "train", "test": "validation"}


def export_pairs(shards: Path, output: Path, console: Console | None = None) -> dict[str, int]:
    """Write ``output/data.json`` with a picture, its truth and the best reference of every sample.

    The file is ``{"train": {id: {"image", "target_image", "ref_image", "prompt"}}, "test": {...}}`` with absolute paths
    and is written last; pictures that are there already are not written again.

    Args:
        shards: folder that curation wrote; its validation scenes become ``test``.
        output: folder to write.
        console: where the progress goes.

    Returns:
        How many samples each part has.

    Raises:
        UserError: no shards for training, or a damaged one.
    """
    found = {}
    for part, split in _SPLITS.items():
        try:
            found[part] = find_shards(shards, split)
        except UserError:
            if part == "train":
                raise
            found[part] = []
    total = sum(len(keys_of(path)) for paths in found.values() for path in paths)
    with progress_bar(console, counted=True) as progress:
        task = progress.add_task("Exporting", total=total)
        content: dict[str, dict[str, dict[str, str]]] = {}
        for part, paths in found.items():
            content[part] = {}
            for sample in read_shards(paths):
                content[part][sample.key.replace("/", "_")] = _write_sample(sample, output.absolute() / part)
                progress.advance(task)
    write_json(output / "data.json", content)
    return {part: len(entries) for part, entries in content.items()}


def _write_sample(sample: Sample, folder: Path) -> dict[str, str]:
    pictures = {"image": sample.request.image, "target_image": sample.truth}
    if sample.request.references:
        pictures["ref_image"] = sample.request.references[0].image
    entry = {}
    for name, picture in pictures.items():
        path = folder / name / f"{sample.key.replace('/', '_')}.png"
        if not path.is_file():
            write_picture(path, picture)
        entry[name] = str(path)
    return entry | {"prompt": PROMPT}
