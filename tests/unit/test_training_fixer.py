"""Training the embedded chain on a handful of tiny samples (see training_samples.py)."""

from __future__ import annotations

import json
import math
import resource
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from difix3d_ns.apps.train_prior import train_prior
from difix3d_ns.cli import COMMANDS
from difix3d_ns.data.shards import find_shards, read_shards
from difix3d_ns.errors import UserError
from difix3d_ns.priors.registry import load_fixer
from difix3d_ns.training.prior_recipe import Phase, load_recipe
from difix3d_ns.training.systems.embedded import Embedded
from difix3d_ns.training.train import train
from difix3d_ns.training.training_loop import CHECKPOINT
from difix3d_ns.training.validate import choose_samples
from tests.conftest import Command, command_line, execute
from tests.pretended_cuda import counting, pretended_cuda
from tests.unit.training_samples import RECIPE, write_shards

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    train(RECIPE, output, shards)
    return output


def assert_equal_weights(first: Path, second: Path) -> None:
    whole, other = (load_file(folder / "weights.safetensors") for folder in (first, second))
    assert whole.keys() == other.keys()
    for key in whole:
        assert torch.equal(whole[key], other[key]), key


def history(output: Path) -> dict[str, list[dict]]:
    return json.loads((output / "history.json").read_text())


def curve(output: Path) -> list[tuple[int, float]]:
    """Steps and PSNR of the validations in TensorBoard."""
    events = EventAccumulator(str(output / "tensorboard"), {"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars("validation/psnr")]


def write_recipe(path: Path, **changes) -> Path:
    content = RECIPE.fingerprint() | changes
    path.write_text(yaml.safe_dump(content, sort_keys=False))  # sums depend on the order of losses
    return path


def test_crops_are_aligned(shards: Path):
    """Visible warps resemble the truth far more than the render does."""
    system = Embedded(RECIPE)
    prepared = [system.prepare(sample) for sample in read_shards(find_shards(shards, "train"))]
    phase = replace(RECIPE.phases[0], crop=32)
    batch = Embedded(replace(RECIPE, reference_dropout=0.0)).draw(2 * prepared, phase, torch.Generator().manual_seed(0))
    assert batch.warps.shape[-2:] == (32, 32)
    sure = (batch.visibility[:, 0] > 0.5).expand_as(batch.truth)
    error = (batch.warps[:, 0] - batch.truth).abs()[sure].mean()
    assert error < 0.04
    assert error < 0.5 * (batch.image - batch.truth).abs()[sure].mean()


def test_training_beats_identity_and_its_own_start_on_unseen_scenes(trained: Path):
    metrics = json.loads((trained / "metrics.json").read_text())
    links = {"identity", "blend", "fixed", "fixed_without_diffusion", "fixed_without_references"}
    assert set(metrics) == links | {"samples", "scenes", "strategies"}
    assert metrics["samples"] == 2
    assert (
        metrics["scenes"]["validation_scene"]["fixed"] == metrics["fixed"] == metrics["strategies"]["sparse"]["fixed"]
    )
    assert metrics["fixed"]["psnr"] > metrics["identity"]["psnr"] + 1
    assert metrics["fixed"]["flip"] < metrics["identity"]["flip"]
    assert metrics["fixed_without_references"] == metrics["identity"]
    rows = history(trained)["validations"]
    assert (rows[0]["phase"], rows[0]["step"]) == (0, 0)
    assert max(row["psnr"] for row in rows[1:]) > rows[0]["psnr"] + 0.3
    best = max(row["psnr"] for row in rows)
    assert metrics["fixed"]["psnr"] == pytest.approx(best, abs=1e-3)  # these weights were kept


def test_both_phases_learn(shards: Path, tmp_path: Path):
    phases = tuple(replace(phase, steps=100) for phase in RECIPE.phases)
    train(replace(RECIPE, phases=phases, crop=32, decides="none"), tmp_path, shards)
    for phase in (0, 1):
        mine = [row["loss"] for row in history(tmp_path)["losses"] if row["phase"] == phase]
        assert len(mine) == 2
        assert mine[-1] < 0.97 * mine[0]
    assert json.loads((tmp_path / "metrics.json").read_text()) == {}


def test_weights_load_as_a_fixer(trained: Path, shards: Path):
    (sample, _) = choose_samples(find_shards(shards, "validation"), 2)
    (result,) = load_fixer("embedded", str(trained)).fix([sample.request])
    before, after = ((picture - sample.truth).abs().mean() for picture in (sample.request.image, result.image))
    assert after < 0.9 * before


def test_curves_and_pictures(trained: Path):
    events = EventAccumulator(str(trained / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    assert {"validation/psnr", "validation/ssim", "validation/flip"} <= set(events.Tags()["scalars"])
    pictures = events.Tags()["images"]
    assert len(pictures) == 2
    shown = events.Images(pictures[0])
    assert (shown[0].width, shown[0].height) == (3 * 64, 56)  # before, after, truth


def test_model_card(trained: Path):
    card = (trained / "MODEL_CARD.md").read_text()
    metrics = json.loads((trained / "metrics.json").read_text())
    assert f"| validation_scene | {metrics['identity']['psnr']:.2f} / " in card
    assert "| train_scene | train | 4 | " in card
    assert f"seed {RECIPE.seed};" in card


@pytest.mark.parametrize("interruption", [0, 10, 15, 30, 35])
def test_resume_equals_uninterrupted(trained: Path, shards: Path, tmp_path: Path, interruption: int):
    assert train(RECIPE, tmp_path, shards, stop_after=interruption) == {}
    assert not (tmp_path / "weights.safetensors").exists()
    torch.rand(3)  # the global generator plays no part
    train(RECIPE, tmp_path, shards)
    assert_equal_weights(trained, tmp_path)
    assert history(trained)["validations"] == history(tmp_path)["validations"]
    assert set(curve(tmp_path)) <= set(curve(trained))
    assert len(set(curve(tmp_path))) == len(curve(tmp_path))  # no step twice


def test_a_killed_run_goes_on_exactly(trained: Path, shards: Path, tmp_path: Path):
    recipe = write_recipe(tmp_path / "recipe.yaml", checkpoint_minutes=0)
    output = tmp_path / "out"
    code = (
        "import os, torch; torch.set_num_threads(1)\n"
        "from difix3d_ns.training import training_loop\n"
        "step = training_loop.Run._one_step\n"
        "def die(self, *a):\n"
        "    if self.state.total == 33: os.kill(os.getpid(), 9)\n"
        "    return step(self, *a)\n"
        "training_loop.Run._one_step = die\n"
        "from pathlib import Path\n"
        "from difix3d_ns.training.prior_recipe import load_recipe\n"
        "from difix3d_ns.training.train import train\n"
        f"train(load_recipe({str(recipe)!r}), Path({str(output)!r}), Path({str(shards)!r}))\n"
    )
    assert execute([sys.executable, "-c", code]).returncode == -9
    train(load_recipe(recipe), output, shards)
    assert_equal_weights(trained, output)


def test_streaming_through_a_small_window_goes_on_exactly(shards: Path, tmp_path: Path):
    """Two of four samples at a time; workers change nothing."""
    recipe = replace(RECIPE, memory=2.2 * 27 * 56 * 64 / 2**30, reuse=4.0, phases=RECIPE.phases[:1])
    for name, changes in (("whole", {}), ("parts", {}), ("workers", {"workers": 2})):
        if name == "parts":
            train(recipe, tmp_path / name, shards, stop_after=17)
            state = torch.load(tmp_path / name / CHECKPOINT, weights_only=True)["state"]
            assert state["window"] == 2
        train(replace(recipe, **changes), tmp_path / name, shards)
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
    assert_equal_weights(tmp_path / "whole", tmp_path / "workers")


def test_accumulation_and_precision_train(shards: Path, tmp_path: Path):
    recipe = replace(RECIPE, accumulate=2, batch=1, precision="bfloat16", phases=RECIPE.phases[:1])
    metrics = train(recipe, tmp_path, shards)
    assert metrics["fixed"]["psnr"] > metrics["identity"]["psnr"] + 1


def test_each_training_of_a_process_is_on_its_own_device(shards: Path, tmp_path: Path):
    recipe, kernels = replace(RECIPE, decides="none"), []
    with pretended_cuda():
        for number, device in enumerate(("cpu", "cuda", "cpu")):
            with counting() as traffic:
                assert train(recipe, tmp_path / str(number), shards, device=device, stop_after=1) == {}
            kernels.append(traffic["kernels"])
    assert kernels[0] == kernels[2] == 0 < kernels[1]


def test_time_limit_ends_training(shards: Path, tmp_path: Path):
    phases = tuple(replace(phase, steps=10**6) for phase in RECIPE.phases)
    recipe = replace(RECIPE, phases=phases, validate_steps=10**6)
    assert train(replace(recipe, max_time=0.02), tmp_path, shards)["fixed"]["psnr"] > 10
    rates = [row["learning_rate"] for row in history(tmp_path)["losses"]]
    assert all(0 < rate < 3e-3 for rate in rates)


def test_patience_ends_a_phase(shards: Path, tmp_path: Path):
    """Nothing is learnt: the start stays the best, and after three validations that are no better it is over."""
    phases = (Phase(("blend",), steps=1000, learning_rate=0.0),)
    recipe = replace(RECIPE, phases=phases, validate_steps=2, patience=3)
    train(recipe, tmp_path, shards)
    rows = history(tmp_path)["validations"]
    assert [row["best"] for row in rows] == [True, False, False, False]
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]["total"] == 6


def test_starting_from_weights(trained: Path, shards: Path, tmp_path: Path):
    recipe = replace(RECIPE, phases=(replace(RECIPE.phases[0], steps=1),))
    train(replace(recipe, start=str(trained)), tmp_path / "out", shards)
    first = history(tmp_path / "out")["validations"][0]
    best = max(row["psnr"] for row in history(trained)["validations"])
    assert first["psnr"] == pytest.approx(best, abs=0.02)
    with pytest.raises(UserError, match="--start nowhere"):
        train(replace(recipe, start="nowhere"), tmp_path / "other", shards)


def test_two_processes_share_gradients(shards: Path, tmp_path: Path):
    """A real launch: both processes end with the same weights, which depend on the samples of both."""
    recipe = write_recipe(tmp_path / "recipe.yaml")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\n"
        "from difix3d_ns.training import training_loop\n"
        "measure = training_loop.Run.measure\n"
        "def dump(self):\n"
        "    rank = self.accelerator.process_index\n"
        "    keys = sorted(key for key, _ in self._window._samples)\n"
        f"    torch.save({{'keys': keys, 'state': self.module.state_dict()}}, f'{tmp_path}/rank{{rank}}.pt')\n"
        "    return measure(self)\n"
        "training_loop.Run.measure = dump\n"
        "from difix3d_ns.apps.train_prior import main\n"
        "main()\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    output = tmp_path / "out"
    arguments = [str(recipe), "--output", str(output), "--shards", str(shards), "--device", "cpu"]
    done = execute([*launch, str(script), *arguments], {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-4000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert len(first["keys"]) == len(second["keys"]) == 2
    assert not set(first["keys"]) & set(second["keys"])
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), key
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["samples"] == 2  # measured by one process each
    assert metrics["fixed"]["psnr"] > metrics["identity"]["psnr"] + 1
    assert done.stdout.count("phase 1, step 0: psnr") == 1


def test_smoke_recipe_improves_unseen_samples(run: Command, tmp_path: Path):
    """The shipped recipe as a user starts it: makes its own data, and unseen samples gain."""
    run("difix3d", "train-prior", "smoke", "--output", tmp_path, env={"OMP_NUM_THREADS": "1"})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    rows = history(tmp_path)["validations"]
    assert metrics["samples"] == 16
    assert metrics["fixed"]["psnr"] > metrics["identity"]["psnr"] + 1
    assert metrics["fixed"]["psnr"] == pytest.approx(max(row["psnr"] for row in rows), abs=1e-3)
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "procedural_00901" in card and "Licence of the weights: Apache-2.0" in card


def test_a_loss_that_is_not_finite_stops_and_names_the_sample(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prepare = Embedded.prepare

    def spoil(self, sample):
        prepared = prepare(self, sample)
        bad = sample.key == "train_scene/half/0001"
        return prepared._replace(image=prepared.image * math.nan) if bad else prepared

    monkeypatch.setattr(Embedded, "prepare", spoil)
    with pytest.raises(UserError, match=r"loss is not finite in phase 1, step \d+, with train_scene/half/0001\. "):
        train(replace(RECIPE, decides="none"), tmp_path, shards)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert all(bool(value.isfinite().all()) for value in state["module"].values())


def test_divergence_keeps_the_last_good_state(shards: Path, tmp_path: Path):
    phases = (Phase(("blend",), steps=100, learning_rate=1e4, warmup=30),)
    with pytest.raises(UserError, match=r"not finite in phase 1.*last_good"):
        train(replace(RECIPE, phases=phases), tmp_path, shards)
    (sample, _) = choose_samples(find_shards(shards, "validation"), 2)
    (result,) = load_fixer("embedded", str(tmp_path / "last_good")).fix([sample.request])
    assert bool(result.image.isfinite().all())
    gentle = replace(RECIPE, phases=(replace(RECIPE.phases[0], steps=1),))
    assert train(replace(gentle, start=str(tmp_path / "last_good")), tmp_path / "again", shards)["fixed"]["psnr"] > 5


def test_a_full_disk_keeps_what_was_saved(trained: Path, shards: Path, tmp_path: Path):
    """Past a file-size limit writing fails as on a full disk."""
    output, recipe = tmp_path / "out", write_recipe(tmp_path / "recipe.yaml", checkpoint_minutes=0)
    train(load_recipe(recipe), output, shards, stop_after=5)
    saved = (output / CHECKPOINT).read_bytes()
    command = ["difix3d", "train-prior", recipe, "--output", output, "--shards", shards]
    done = execute(
        command_line(*command),
        {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2),
    )
    said = " ".join(done.stdout.split())
    assert done.returncode == 1 and "Traceback" not in said
    assert "could not be saved, training goes on" in said and "File too large" in said
    assert f"Error: --output {output}" in said and "Make room" in said
    assert (output / CHECKPOINT).read_bytes() == saved
    assert not list(output.glob(".*")) and not (output / "metrics.json").exists()
    train(load_recipe(recipe), output, shards)
    assert_equal_weights(trained, output)


@pytest.mark.parametrize("references", [0, 1])
def test_fewer_references_than_slots(tmp_path: Path, references: int):
    root = write_shards(tmp_path / "shards", train=2, validation=1, references=references)
    phases = tuple(replace(phase, steps=3) for phase in RECIPE.phases)
    metrics = train(replace(RECIPE, phases=phases), tmp_path / "out", root)
    assert (metrics["fixed"] == metrics["identity"]) == (references == 0)


def test_mixed_resolutions(tmp_path: Path):
    root = write_shards(tmp_path / "shards", train=2)
    write_shards(tmp_path / "large", train=2, size=(72, 60))
    (tmp_path / "large" / "train" / "train_scene").rename(root / "train" / "other_scene")
    phases = (replace(RECIPE.phases[0], steps=4),)
    train(replace(RECIPE, phases=phases, crop=64), tmp_path / "out", root)
    assert (tmp_path / "out" / "weights.safetensors").is_file()


def test_shards_that_cannot_be_used_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no train shards.*difix3d curate"):
        train(replace(RECIPE, decides="none"), tmp_path / "a", tmp_path)
    root = write_shards(tmp_path / "shards", train=2)
    unseen = root / "validation"
    unseen.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"no validation shards.*`decides: none`"):
        train(RECIPE, tmp_path / "b", root)
    recipe = replace(RECIPE, decides="none")
    shard = root / "train" / "train_scene" / "half.tar"
    whole = shard.read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        shard.write_bytes(content)
        with pytest.raises(UserError, match=r"half\.tar .*delete it"):
            train(recipe, tmp_path / "c", root)
    shard.with_suffix(".json").write_text("{")
    with pytest.raises(UserError, match=r"half\.json is damaged"):
        train(recipe, tmp_path / "d", root)


def test_checkpoints_of_other_runs_are_refused(shards: Path, tmp_path: Path, trained: Path):
    train(RECIPE, tmp_path, shards, stop_after=1)
    with pytest.raises(UserError, match=r"another recipe \(seed differ\)"):
        train(replace(RECIPE, seed=5), tmp_path, shards)
    other = {**RECIPE.network, "blend": {"widths": [8, 8, 16]}}
    with pytest.raises(UserError, match=r"another recipe \(network differ\)"):
        train(replace(RECIPE, network=other), tmp_path, shards)
    with pytest.raises(UserError, match=r"--start .* does not fit the recipe's network"):
        train(replace(RECIPE, network=other, start=str(trained)), tmp_path / "new", shards)
    (tmp_path / CHECKPOINT).write_bytes(b"PK half")
    with pytest.raises(UserError, match=r"checkpoint\.pt is damaged"):
        train(RECIPE, tmp_path, shards)


USABLE = "system: x\nnetwork: {}\nphases: [{modules: [a], steps: 1}]\nlosses: {l1: 1}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phases: []\nstepps: 3\n", r"bad\.yaml.*stepps"),
        ("- 3\n", r"bad\.yaml: a recipe is a mapping"),
        ("system: embedded\nnetwork: {}\nphases: []\nlosses: {l1: 1}\n", r"bad\.yaml: there are no phases"),
        ("system: x\nnetwork: {}\nphases: [{modules: [a], steps: 1}]\nlosses: {}\n", "there are no losses"),
        ("system: x\nnetwork: {}\nphases: [{modules: [a]}]\nlosses: {l1: 1}\n", r"bad\.yaml: .*`steps` .*phases\[0\]"),
        (USABLE + "phases: [{modules: [a], stepps: 1}]\n", r"unknown entry phases\[0\]\.stepps; known are crop, end"),
        (USABLE + "batch: 0\n", r"bad\.yaml: Expected `int` >= 1 .*batch"),
        (USABLE + "precision: half\n", r"bad\.yaml: precision is one of auto, .* not 'half'"),
        (USABLE + "scenes: [{scene: a, lnog_side: 9}]\n", r"scenes\[0\]\.lnog_side; known are .*long_side"),
        (USABLE + "scenes: [{long_side: 96}]\n", r"`scene` .*scenes\[0\]"),
    ],
)
def test_recipes_that_cannot_be_used_are_named(tmp_path: Path, text: str, message: str):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"system": "nonsense"}, "unknown system 'nonsense'; known are .*embedded"),
        ({"phases": (Phase(("blend",), 1, watch="best"),)}, "watches 'best'; known are identity"),
        ({"phases": (Phase(("mix",), 1),)}, "unknown module mix; known: "),
        ({"network": {"widths": 3}}, "network is no configuration"),
        ({"losses": {"lpisp": 1.0}}, "unknown loss 'lpisp'"),
    ],
)
def test_mistakes_in_recipes_are_named(shards: Path, tmp_path: Path, changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        train(replace(RECIPE, **changes), tmp_path, shards)


def test_folders_of_a_recipe_are_read_by_the_reader_handed_down(
    tmp_path: Path,
):
    """The launched module is the command, and what nerfstudio reads a recipe may name."""
    assert COMMANDS["train-prior"] is train_prior
    (tmp_path / "yard").mkdir()
    recipe = write_recipe(tmp_path / "recipe.yaml", scenes=[{"scene": str(tmp_path / "yard"), "steps": 20}])
    with pytest.raises(UserError, match=r"yard holds nothing to train on; give a folder with transforms\.json"):
        train_prior(str(recipe), tmp_path / "out")
    with pytest.raises(UserError, match="yard cannot be read here"):
        train(load_recipe(recipe), tmp_path / "out")


def test_shipped_recipes_are_valid():
    with pytest.raises(
        UserError, match=r"no recipe nonsense.*detail, difix-finetune, eft, embedded, hi3d, photo_volume, smoke"
    ):
        load_recipe("nonsense")
    for name in ("embedded", "smoke", "difix-finetune"):
        recipe = load_recipe(name)
        assert recipe.name == name and recipe.phases
