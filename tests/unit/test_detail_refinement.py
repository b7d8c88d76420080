"""Detail refinement: what it matches, what it leaves alone, and a training of a tiny one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor

from difix3d_ns.apps.fix_images import Sources, fix_pictures
from difix3d_ns.data.curate import curate
from difix3d_ns.data.options import CurationOptions
from difix3d_ns.data.orbit_samples import orbit_capture
from difix3d_ns.data.shards import Sample, read_shards
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import reproject
from difix3d_ns.io.images import read_picture, write_picture
from difix3d_ns.metrics.high_pass import high_pass_correlation
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.detail import known_places
from difix3d_ns.priors.networks.detail_net import DetailNet, Match, Matched, cell_centres, fetch
from difix3d_ns.priors.registry import fixer_of, load_fixer
from difix3d_ns.training.degradation import generated
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.systems.detail import DetailSystem, matching_loss
from difix3d_ns.training.train import train
from tests.unit.known_scenes import camera_at, photograph
from tests.unit.tiny_fixers import DETAIL, write_detail

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of one object."""
    output = tmp_path_factory.mktemp("photos")
    options = CurationOptions(strategies=("photographs",), split="train", long_side=96, references=4, samples=3)
    curate(["object-seed:1"], output, options)
    return output


@pytest.fixture(scope="module")
def samples(shards: Path) -> list[Sample]:
    return list(read_shards([shards / "train" / "object_00001" / "photographs.tar"]))


def recipe(*phases: Phase) -> Recipe:
    phases = phases or (Phase(("match", "fuse"), steps=4, watch="fixed"),)
    network = {"net": DETAIL["net"]}
    return Recipe(
        system="detail",
        network=network,
        phases=phases,
        losses={"l1": 1.0},
        batch=2,
        decides="none",
        precision="float32",
    )


def blurred(image: Tensor, sigma: float = 2.0) -> Tensor:
    """A picture [H, W, 3] as a generator with little detail makes it."""
    return torch.from_numpy(gaussian_filter(image.numpy(), (sigma, sigma, 0), mode="nearest"))


def beside(sample: Sample) -> tuple[Tensor, PosedImage]:
    """The photo of a sample, and the one that shows most of it."""
    return sample.truth, sample.request.references[0]


# What it does --------------------------------------------------------------------------------------------------------


def test_detail_of_a_photo_comes_back_without_cameras(samples: list[Sample]) -> None:
    """Of views of unseen objects that were blurred: more true detail, and no larger error."""
    fixer = load_fixer("detail")
    before, after, errors = [], [], []
    for sample in samples:
        truth, photo = beside(sample)
        view = blurred(truth, 1.5)
        found = fixer.fix([FixRequest(view, [PosedImage(photo.image)])])[0]
        before.append(high_pass_correlation(view, truth, 2))
        after.append(high_pass_correlation(found.image, truth, 2))
        errors.append(float((found.image - truth).square().mean() / (view - truth).square().mean()))
    assert sum(after) > sum(before)
    assert sum(errors) / len(errors) < 1


def test_where_nothing_matches_the_picture_stays_to_the_last_bit(tmp_path: Path, samples: list[Sample]) -> None:
    truth, photo = beside(samples[0])
    view = blurred(truth)
    hidden = replace(photo, mask=torch.zeros_like(photo.image[..., :1]))
    for fixer in (load_fixer("detail"), load_fixer("detail", str(write_detail(tmp_path)))):
        result = fixer.fix([FixRequest(view, [hidden])])[0]
        assert torch.equal(result.image, view) and not result.confidence.any()
        result = fixer.fix([FixRequest(view, [photo])])[0]
        same = (result.image == view).all(-1, keepdim=True)
        assert bool(same[result.confidence == 0].all())


def test_a_photo_of_something_else_changes_next_to_nothing(samples: list[Sample]) -> None:
    view = blurred(samples[0].truth)
    other = orbit_capture(3, 96, photos=6, grounded=False).images[0]
    result = load_fixer("detail").fix([FixRequest(view, [PosedImage(other)])])[0]
    changed = (result.image - view).abs().amax(-1) > 0.02
    assert float(changed.float().mean()) < 0.05 and float(result.confidence.mean()) < 0.1


def test_places_by_cameras_are_where_the_cameras_see_them() -> None:
    target, _ = photograph(camera_at(0.0, width=64, height=48))
    photo, _ = photograph(camera_at(0.4, width=80, height=60))
    assert target.camera is not None and photo.camera is not None and target.depth is not None
    request = FixRequest(target.image, [photo, PosedImage(photo.image)], target.camera, target.depth, target.alpha)
    small = photo.image.permute(2, 0, 1)[:, ::2, ::2]
    known, unknown = known_places(request, [small, small], [None, None])
    assert unknown is None and known is not None
    visible = known.chance > 0.99
    assert visible.float().mean() > 0.3
    colours = fetch(photo.image.permute(2, 0, 1), 2 * known.places, 1)
    apart = (colours - target.image.permute(2, 0, 1)).abs().amax(0)
    assert float((apart[visible] < 0.03).float().mean()) > 0.9  # but at the edges of the card


def test_cameras_are_used_where_there_are_some(tmp_path: Path) -> None:
    """With random weights, nothing but the cameras knows where anything is."""
    fixer = load_fixer("detail", str(write_detail(tmp_path)), dtype=torch.float32)
    target, _ = photograph(camera_at(0.0, width=64, height=48))
    photo, _ = photograph(camera_at(0.4, width=64, height=48))
    posed = FixRequest(target.image, [photo], target.camera, target.depth, target.alpha)
    bare = FixRequest(target.image, [PosedImage(photo.image)])
    (with_cameras,), (without,) = fixer.fix([posed]), fixer.fix([bare])
    assert not torch.equal(with_cameras.image, without.image)
    assert torch.equal(fixer.fix([replace(posed, depth=None)])[0].image, without.image)


def test_the_order_of_photos_does_not_matter(tmp_path: Path, samples: list[Sample]) -> None:
    fixer = load_fixer("detail", str(write_detail(tmp_path)), dtype=torch.float32)
    view, photos = samples[0].truth, [PosedImage(one.image) for one in samples[0].request.references[:3]]
    one, other = (fixer.fix([FixRequest(view, row)])[0].image for row in (photos, photos[::-1]))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_pictures_of_any_generator_by_a_command(tmp_path: Path, samples: list[Sample]) -> None:
    truth, photo = beside(samples[0])
    write_picture(tmp_path / "views" / "view.png", blurred(truth))
    write_picture(tmp_path / "photo.png", photo.image)
    (written,) = fix_pictures(
        [tmp_path / "views"], tmp_path / "fixed", Sources(references=(tmp_path / "photo.png",)), "detail", "cpu"
    )
    assert read_picture(written).image.shape == truth.shape


def test_a_folder_of_its_weights_is_known_as_such(tmp_path: Path) -> None:
    assert fixer_of(str(write_detail(tmp_path))) == ("detail", str(tmp_path))
    assert fixer_of(str(tmp_path / "weights.safetensors"))[0] == "detail"


# What it is trained by -----------------------------------------------------------------------------------------------


def test_a_generated_view_keeps_what_photos_show_of_it() -> None:
    """A view that is displaced as a whole shows other pixels of the photo, and these are those of the truth."""
    photo = torch.rand(3, 48, 64, generator=Generator().manual_seed(0))
    photo = torch.nn.functional.interpolate(photo[None, :, ::6, ::8], (48, 64), mode="bicubic")[0].clamp(0, 1)
    places = cell_centres((48, 64), (48, 64)).T.unflatten(1, (48, 64))[None]
    worse, errors = 0, []
    for seed in range(12):
        draw = Generator().manual_seed(seed)
        image, truth, moved, seen = generated(photo, photo, places, torch.ones(1, 48, 64), draw)
        errors.append(float(((fetch(photo, moved[0], 1) - truth).abs() * seen).mean()))
        worse += bool((image - truth).abs().mean() > 0.005)
    assert max(errors) < 0.02 and worse >= 8


def test_true_matches_have_the_smallest_loss(samples: list[Sample]) -> None:
    system = DetailSystem(recipe())
    prepared = [system.prepare(sample) for sample in samples[:2]]
    batch = next(
        batch
        for seed in range(50)
        if (batch := system.draw(prepared, recipe().phases[0], Generator().manual_seed(seed))).seen[0].mean() > 0.1
    )
    height, width = batch.image.shape[-2:]
    size = (int(batch.photos.shape[-2]), int(batch.photos.shape[-1]))
    cells = (-(-height // 8), -(-width // 8))
    photo_cells = (-(-size[0] // 8), -(-size[1] // 8))

    def found(shift: float, confident: float) -> Matched:
        def at(scale: int) -> Match:
            padded = torch.nn.functional.pad(batch.places[0], (0, -width % 8, 0, -height % 8))
            seen = torch.nn.functional.pad(batch.seen[0], (0, -width % 8, 0, -height % 8))
            pooled = torch.nn.functional.avg_pool2d(torch.cat([padded * seen, seen[None]])[None], scale)[0]
            there = pooled[:2] / pooled[2:].clamp_min(1e-3) + shift
            return Match(there, confident * (2 * (pooled[2] > 0.99).float() - 1))

        scores = torch.full((cells[0] * cells[1], photo_cells[0] * photo_cells[1]), -3.0)
        return Matched(scores, (cells, photo_cells), at(4), at(2))

    truth, off, unsure = (
        float(matching_loss(found(*how), batch.places[0], batch.seen[0], size))
        for how in ((0.0, 6.0), (5.0, 6.0), (0.0, 0.0))
    )
    assert truth < unsure < off


def test_a_tiny_one_is_trained_and_used(shards: Path, samples: list[Sample], tmp_path: Path) -> None:
    phases = (
        Phase(("match",), steps=2, learning_rate=1e-3, watch="fixed"),
        Phase(("match", "fuse"), steps=3, learning_rate=1e-3, watch="fixed"),
    )
    train(recipe(*phases), tmp_path / "run", shards, "cpu")
    fixer = load_fixer("detail", str(tmp_path / "run"))
    truth, photo = beside(samples[0])
    assert fixer.fix([FixRequest(truth, [photo])])[0].image.shape == truth.shape
    again = DetailSystem(replace(recipe(), start=str(tmp_path / "run"))).build()
    assert isinstance(again, DetailNet)
    with pytest.raises(UserError, match="batch is 2"):
        DetailSystem(replace(recipe(), batch=1))


def test_a_sample_says_where_photos_show_it(samples: list[Sample]) -> None:
    system = DetailSystem(recipe())
    prepared = system.prepare(samples[0])
    assert prepared.truth.dtype == torch.uint8 and len(prepared.photos) == len(prepared.grid) == len(prepared.seen)
    assert samples[0].request.camera is not None and samples[0].true_depth is not None
    shown = [one.image for one in samples[0].request.references]
    for photo, grid in zip(prepared.photos, prepared.grid, strict=True):
        number = min(
            range(len(shown)),
            key=lambda i, photo=photo: float((shown[i].permute(2, 0, 1) * 255 - photo).abs().mean()),
        )
        exact, _ = reproject(
            samples[0].true_depth[..., 0].clamp_min(1e-6),
            samples[0].request.camera,
            samples[0].request.references[number].pose,
        )
        torch.testing.assert_close(grid.float(), exact.clamp(-2, 2), atol=2e-3, rtol=0)
