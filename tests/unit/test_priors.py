"""Priors by capability: a new one is one file, and nobody imports it to list it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from difix3d_ns import priors
from difix3d_ns.priors import registry
from difix3d_ns.priors.base import Depth, Fixer, FixRequest, OrbitGenerator, State, Upscaler, ViewGenerator
from difix3d_ns.priors.published.folder import trained_references
from difix3d_ns.priors.registry import available_fixers, available_priors, load_fixer, load_prior
from tests.unit.official_difix import Official

FIXER = """
from difix3d_ns.priors.base import Fixer, FixResult

class Grey:
    def fix(self, requests):
        return [FixResult(r.image * 0 + 0.5, r.image[..., :1] * 0) for r in requests]

def load(weights=None, device=None, dtype=None) -> {annotation}:
    return Grey()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second folder of priors beside the package's."""
    monkeypatch.setattr(registry, "_FOLDER", tmp_path)
    monkeypatch.setattr(priors, "__path__", [*priors.__path__, str(tmp_path)])
    return tmp_path


def test_the_fixers_of_the_package() -> None:
    assert {"none", "blend", "embedded", "detail", "difix", "cascade"} <= set(available_fixers())
    assert not {"base", "registry", "settings"} & set(available_fixers())
    assert available_fixers() == tuple(sorted(available_fixers()))


def test_a_new_fixer_is_one_file(folder: Path) -> None:
    (folder / "all_grey.py").write_text(FIXER.format(annotation="Fixer"))
    assert available_fixers() == ("all-grey",)
    fixer = load_fixer("all-grey")
    (result,) = fixer.fix([FixRequest(torch.zeros(2, 3, 3))])
    assert float(result.image.min()) == 0.5
    assert fixer.trained_references is None and fixer.generative is False  # it did not say
    with pytest.raises(ValueError, match=r"'blend2': no fixer has this name; there are all-grey, or package\.module"):
        load_fixer("blend2")


@pytest.mark.parametrize(
    ("annotation", "capability"),
    [
        ("Fixer", Fixer),
        ("base.Fixer", Fixer),
        ("'Fixer'", Fixer),
        ("BlendFixer", Fixer),
        ("Upscaler", Upscaler),
        ("ViewGenerator", ViewGenerator),
        ("Depth", Depth),
    ],
)
def test_priors_are_listed_by_capability_and_not_imported(folder: Path, annotation: str, capability: type) -> None:
    (folder / "mine.py").write_text(f"raise SystemExit\n\ndef load(weights=None) -> {annotation}: ...\n")
    (folder / "helper.py").write_text("raise SystemExit\n\ndef load(path): ...\n\nclass Fixer: ...\n")
    (folder / "other.py").write_text("raise SystemExit\n\ndef read() -> Fixer: ...\n")
    for asked in (Fixer, Upscaler, ViewGenerator, Depth):
        assert available_priors(asked) == (("mine",) if asked is capability else ())


def test_references_a_published_folder_was_trained_with(tmp_path: Path) -> None:
    official = Official()
    with_one = official.write(tmp_path / "difix_ref")
    with_none = official.write(tmp_path / "difix", with_reference=False)
    assert trained_references(with_one) == load_fixer("difix", str(with_one)).trained_references == 1
    assert trained_references(with_none) == load_fixer("difix", str(with_none)).trained_references == 0
    for index in ("[]", "{", '{"unet": 3}', "{}"):
        (with_none / "model_index.json").write_text(index)
        assert trained_references(with_none) == 1
    (with_none / "model_index.json").unlink()
    assert trained_references(with_none) == 1


class _Stranger:
    """A prior of another package that knows of no protocol: it says what it has to, and wants matched depth."""

    wants_matched_depth = True
    rounds = 3

    def start(self, *arguments: object) -> State:
        return {}


def test_what_a_prior_of_another_package_leaves_out_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("stranger.prior")
    module.load = lambda weights, device, dtype: _Stranger()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stranger", ModuleType("stranger"))
    monkeypatch.setitem(sys.modules, "stranger.prior", module)
    load_prior.cache_clear()
    assert load_prior(Depth, "stranger.prior").wants_matched_depth is True
    upscaler, generator = load_prior(Upscaler, "stranger.prior"), load_prior(OrbitGenerator, "stranger.prior")
    assert upscaler.rounds_alone == 3 and upscaler.start() == {}
    assert (generator.about, generator.generative) == ("", False)
    fixer = load_prior(Fixer, "stranger.prior")
    assert (fixer.trained_references, fixer.default_references, fixer.aligns, fixer.describe(2)) == (None, 3, False, "")
    for prior, name in ((upscaler, "joint"), (upscaler, "level"), (generator, "step"), (generator, "abuot")):
        with pytest.raises(AttributeError, match=f"'_Stranger' object has no attribute '{name}'"):
            getattr(prior, name)
    load_prior.cache_clear()


class _Doubling(Upscaler):
    """An upscaler that repeats pixels, one row in each step: shows that the protocol can be kept."""

    joint, rounds = False, 2

    def level(self, round: int) -> str:
        return f"pass {round}"

    def start(
        self,
        lows: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        seeds: Sequence[int],
        renders: Sequence[Tensor] | None = None,
    ) -> State:
        (low,) = lows
        return {"low": low, "rows": low.new_zeros(0, 2 * low.shape[1], 3), "round": torch.tensor(0)}

    def steps_left(self, state: State) -> int:
        return 2 * len(state["low"]) - len(state["rows"])

    def step(self, state: State) -> State:
        row = state["low"][len(state["rows"]) // 2].repeat_interleave(2, 0)
        return {**state, "rows": torch.cat([state["rows"], row[None]])}

    def result(self, state: State) -> list[Tensor]:
        return [state["rows"]]

    def advance(self, state: State, renders: Sequence[Tensor]) -> State:
        (render,) = renders
        return {**self.start([render[::2, ::2]], [(6, 8)], [0]), "round": state["round"] + 1}


def test_work_in_steps_can_be_saved_in_between(tmp_path: Path) -> None:
    upscaler: Upscaler = _Doubling()
    state = upscaler.start([torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(0))], [(6, 8)], [0])
    while upscaler.steps_left(state):
        state = upscaler.step(state)
        torch.save(dict(state), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    (picture,) = upscaler.result(state)
    assert picture.shape == (6, 8, 3) and torch.equal(picture[1::2, 1::2], state["low"])
    assert upscaler.steps_left(upscaler.advance(state, [picture])) == 6
