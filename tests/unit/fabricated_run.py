"""The folder of a training as far as the report reads it: settings, curves and repaired views, without the training."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from difix3d_ns.evaluation.runs import HeldOutView
from difix3d_ns.guidance.fix_record import ABOUT_FIXES, record_fix
from difix3d_ns.guidance.fixing import FixedView
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.methods.sparse import sparse_splatfacto
from difix3d_ns.methods.threedsr import threedsr_splatfacto
from difix3d_ns.priors.base import FixRequest, FixResult
from difix3d_ns.views.folders import RECORDS_FOLDER
from difix3d_ns.views.records import About, ViewRecord, ViewRecords, panels_of

HEIGHT, WIDTH = 48, 64
RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def plain_picture(colour: tuple[float, float, float], height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    return torch.tensor(colour).expand(height, width, 3).contiguous()


def views(count: int = 2, enhanced: bool = True, problem: str = "") -> list[HeldOutView]:
    """Held-out views: red renders, green enhanced ones, blue truth."""
    picture = plain_picture(GREEN) if enhanced else None
    seconds = 0.5 if enhanced else None
    pictures = plain_picture(BLUE), plain_picture(RED), picture
    return [HeldOutView(*pictures, f"frame_{i:05d}.jpg", seconds, problem) for i in range(count)]


METHODS = {
    method.config.method_name: method.config for method in (difix3d_splatfacto, sparse_splatfacto, threedsr_splatfacto)
}


def write_config(folder: Path, method: str = "difix3d-splatfacto", **changes: Any) -> Path:
    """A config.yml of a method with other values: names of flags, with __ between their parts."""
    config: Any = copy.deepcopy(METHODS[method])
    config.data, config.timestamp, config.experiment_name = Path("scene"), folder.name, "scene"
    for name, value in changes.items():
        *above, last = name.split("__")
        target = config
        for part in above:
            target = getattr(target, part)
        setattr(target, last, value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(yaml.dump(config))
    return folder / "config.yml"


def write_curves(folder: Path, steps: int = 100, first: int = 0) -> None:
    """Every third of the logged steps trained a pseudo-view."""
    with SummaryWriter(str(folder)) as writer:
        for number, step in enumerate(range(first, steps, 10)):
            pseudo = number % 3 == 2
            writer.add_scalar("Train Loss", 0.1 if pseudo else 1.0, step)
            writer.add_scalar("Train Metrics Dict/pseudo_psnr" if pseudo else "Train Metrics Dict/psnr", 20.0, step)
        writer.add_scalar("Eval Images Metrics/psnr", 21.0, 50)
        writer.add_scalar("Pseudo-views/pool", 4, 60)


def write_fixes(folder: Path, rounds: int = 2, targets: int = 2) -> None:
    records = ViewRecords(folder / RECORDS_FOLDER, ABOUT_FIXES)
    photo: Any = SimpleNamespace(image=plain_picture((1.0, 1.0, 0.0)))
    request = FixRequest(plain_picture(RED), [photo])
    result = FixResult(plain_picture(GREEN), torch.full((HEIGHT, WIDTH, 1), 0.75))
    view = FixedView(request, result, (0, 1), 0.25)
    for round in range(1, rounds + 1):
        for target in range(targets):
            names = ["frame_00001.jpg", "frame_00004.jpg"]
            records.write(record_fix(f"target/{target:03d}@{round}", round, target, 10 * round + target, view, names))


def write_upscaled(folder: Path, rounds: int = 2, photos: int = 2, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """Records of a system that remakes every photo in each round, without references."""
    about = About("Photos, sharper than they were taken", "Each is made from a photo.", "Upscaled photos", 12)
    records = ViewRecords(folder / RECORDS_FOLDER, about)
    pictures = {"Low": plain_picture(RED, *size), "Upscaled": plain_picture(GREEN, *size)}
    pictures["Confidence"] = torch.ones(*size, 1)
    for number in range(rounds):
        for photo in range(photos):
            record = ViewRecord(
                key=f"photo/{photo:04d}",
                group=f"Round {number + 1}, level {999 - 333 * number}",
                order=number,
                title=f"frame_{photo:05d}.jpg",
                step=100 * number + photo,
                seconds=1.0,
                pairs=(("Low", "Upscaled"), ("Upscaled", "Confidence")),
                numbers={"agreement": 0.25 + 0.5 * number},
                panels=panels_of(pictures),
            )
            records.write(record)


def text_of(html: str) -> str:
    """What a reader sees."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())
