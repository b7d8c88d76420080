"""Training the aligner: it learns, with and without true depth, and the embedded fixer starts from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difix3d_ns.errors import UserError
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.embedded import load
from difix3d_ns.training.prior_recipe import Phase, load_recipe
from difix3d_ns.training.systems.align import Align, alignment_loss, holds_aligner_alone, load_aligner
from difix3d_ns.training.train import train
from tests.unit.training_samples import RECIPE, sample, write_shards

ALIGN = replace(
    RECIPE,
    system="align",
    network={"align": {}},
    phases=(
        Phase(("match", "see"), steps=12, learning_rate=5e-3, warmup=1, watch="aligned_blend"),
        Phase(("shift", "see"), steps=3, learning_rate=5e-3, warmup=1, watch="aligned_blend"),
    ),
    precision="float32",
    decides="none",
)


def prepared(deep: bool):
    one = sample("scene/full/0000", 0.0, 0.0, 12.0)
    request = one.request
    # A splat whose depth is off by 4 %: the right hypothesis is another one.
    wrong = replace(request, depth=request.depth * 1.04)
    truths = torch.stack([reference.depth for reference in request.references])
    return Align(ALIGN).prepare(one._replace(request=wrong, reference_true_depths=truths if deep else None))


@pytest.mark.slow
@pytest.mark.parametrize("deep", [True, False])
def test_loss_falls_and_every_part_learns(deep: bool):
    torch.manual_seed(0)
    system, kept = Align(ALIGN), prepared(deep)
    assert bool(kept.render.true_depth.numel()) == deep
    aligner = system.build()
    optimizer = torch.optim.Adam(aligner.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    batch = system.draw([kept], ALIGN.phases[0], generator)
    losses = []
    for _ in range(150):
        loss = alignment_loss(aligner, batch[0])
        optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert sum(losses[-5:]) / 5 < 0.85 * losses[0]
    for name, parameters in system.parts(aligner).items():
        assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in parameters), name


@pytest.mark.slow
def test_the_embedded_fixer_starts_from_a_trained_aligner(tmp_path: Path):
    shards = write_shards(tmp_path / "shards", train=2, validation=1)
    train(ALIGN, tmp_path / "align", shards)
    assert holds_aligner_alone(tmp_path / "align")
    trained = load_aligner(tmp_path / "align")
    short = replace(RECIPE, phases=tuple(replace(phase, steps=1) for phase in RECIPE.phases), decides="none")
    train(replace(short, start=str(tmp_path / "align")), tmp_path / "embedded", shards)
    chain = load(str(tmp_path / "embedded"), dtype=torch.float32).chain
    for name, value in trained.state_dict().items():
        assert torch.equal(chain.align.state_dict()[name], value), name
    with pytest.raises(RuntimeError, match="lacks blend, difix"):
        load(str(tmp_path / "align"))


def test_a_sample_without_references_teaches_nothing():
    bare = sample("scene/full/0000", 0.0, 0.0, 12.0, references=0)
    system = Align(ALIGN)
    kept = system.prepare(bare)
    assert isinstance(bare.request, FixRequest) and kept.references == ()
    aligner = system.build()
    batch = system.draw([kept], ALIGN.phases[0], torch.Generator().manual_seed(0))
    loss = system.loss(aligner, batch, ALIGN.phases[0], lambda picture, truth: picture.mean())
    assert float(loss) == 0
    loss.backward()


def test_mistakes_name_the_remedy(tmp_path: Path):
    with pytest.raises(UserError, match="difix3d train-prior align"):
        load_aligner(tmp_path)
    with pytest.raises(UserError, match=r"network\.align"):
        Align(replace(ALIGN, network={"align": {"depth": 3}})).build()
    assert load_recipe("align").phases[0].modules == ("match", "see")
