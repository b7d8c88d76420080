"""Which fixer teaches and which enhances: what is unset is filled in, what cannot be is refused by its flag."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import tyro

from difix3d_ns.enhance.enhancer_config import EnhancerConfig
from difix3d_ns.errors import UserError
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.fixer_config import FixerConfig
from tests.unit.official_difix import Official

DIFIX = FixerConfig("difix", "nvidia/difix_ref", references=1, dtype="float32", compile=True)


@pytest.mark.parametrize(
    ("enhancer", "guidance", "expected"),
    [
        (EnhancerConfig(), None, FixerConfig()),
        (EnhancerConfig(), DIFIX, DIFIX),
        (EnhancerConfig(name="difix"), DIFIX, DIFIX),
        (EnhancerConfig(references=2), DIFIX, replace(DIFIX, references=2)),
        (EnhancerConfig(references=0), DIFIX, replace(DIFIX, references=0)),
        (EnhancerConfig(weights="here"), DIFIX, replace(DIFIX, weights="here")),
        (EnhancerConfig(dtype="bfloat16", compile=False), DIFIX, replace(DIFIX, dtype="bfloat16", compile=False)),
        # Another fixer: nothing is the guidance's, the number of photographs is the fixer's own.
        (EnhancerConfig(name="blend"), DIFIX, FixerConfig("blend")),
        (EnhancerConfig(name="blend"), None, FixerConfig("blend")),
        (
            EnhancerConfig(name="embedded", weights="mine", references=4, dtype="float16", compile=True),
            DIFIX,
            FixerConfig("embedded", "mine", 4, "float16", True),
        ),
    ],
)
def test_the_enhancer_fills_in_what_is_unset(
    enhancer: EnhancerConfig, guidance: FixerConfig | None, expected: FixerConfig
) -> None:
    before = replace(enhancer), guidance and replace(guidance)
    assert enhancer.fixer(guidance) == expected
    assert (enhancer, guidance) == before


def test_a_negative_number_of_references_is_refused_by_its_flag() -> None:
    FixerConfig(references=0).check("--here")
    EnhancerConfig(references=0).check()
    with pytest.raises(UserError, match=r"--pipeline\.guidance\.fixer\.references -1: at least 0"):
        FixerConfig(references=-1).check("--pipeline.guidance.fixer")
    with pytest.raises(UserError, match=r"--pipeline\.enhancer\.references -1: at least 0"):
        EnhancerConfig(references=-1).check()


def test_the_number_of_references_is_the_fixers_own_unless_given(tmp_path: Path) -> None:
    official = Official()
    weights = {kind: str(official.write(tmp_path / str(kind), kind)) for kind in (True, False)}
    for config, expected in (
        (FixerConfig(), 3),
        (FixerConfig("aligned-blend"), 3),
        (FixerConfig("detail"), 3),
        (FixerConfig("blend"), 3),
        (FixerConfig("none"), 0),
        (FixerConfig("difix", weights[True]), 1),
        (FixerConfig("difix", weights[False]), 0),
        (FixerConfig("cascade", weights[True]), 3),  # aligned-blend's; difix is shown one of them
        (FixerConfig("tests.unit.foreign_fixer"), 3),
    ):
        fixer = config.load(torch.device("cpu"))
        assert config.references_for(fixer) == expected, config
        for given in (0, 5):
            assert replace(config, references=given).references_for(fixer) == given


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_strength_is_a_share(strength: float) -> None:
    for good in (0.0, 0.5, 1.0):
        EnhancerConfig(strength=good).check()
    with pytest.raises(UserError, match=r"--pipeline\.enhancer\.strength .*\[0, 1\]"):
        EnhancerConfig(strength=strength).check()


def test_loading_names_the_flags_of_whoever_asked() -> None:
    device = torch.device("cpu")
    assert len(FixerConfig("blend").load(device).fix([FixRequest(torch.zeros(2, 3, 3))])) == 1
    for config, message in (
        (FixerConfig("blur"), r"'blur' cannot be loaded \(--mine\.name, --mine\.weights\): unknown fixer 'blur'"),
        (FixerConfig("embedded", "/nowhere"), r"--mine\.weights\): .*nowhere"),
        (FixerConfig("blend", compile=True), "cannot be compiled"),
    ):
        with pytest.raises(UserError, match=message):
            config.load(device, "--mine")
    with pytest.raises(UserError, match=r"--pipeline\.enhancer\.weights or DIFIX3D_WEIGHTS\): .*nowhere"):
        FixerConfig("embedded", "/nowhere").load(device, "--pipeline.enhancer")


def test_networks_run_in_the_precision_asked_for() -> None:
    for dtype in ("float32", "bfloat16"):
        fixer = FixerConfig("aligned-blend", dtype=dtype).load(torch.device("cpu"))
        assert next(fixer.chain.blend.parameters()).dtype == getattr(torch, dtype)  # type: ignore[attr-defined]


@pytest.mark.parametrize("config", [FixerConfig, EnhancerConfig])
def test_flags_explain_themselves(config: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        tyro.cli(config, args=["--help"])
    said = capsys.readouterr().out
    for field in fields(config):
        assert (f"--{field.name}" in said) == (field.name != "from_environment")  # hidden: for measurements
    flags = ["--name", "difix", "--weights", "there", "--references", "1", "--dtype", "bfloat16"]
    chosen = tyro.cli(config, args=flags)
    assert (chosen.name, chosen.weights, chosen.references, chosen.dtype) == ("difix", "there", 1, "bfloat16")


def test_every_fixer_flag_is_the_enhancers_too() -> None:
    assert {field.name for field in fields(FixerConfig)} <= {field.name for field in fields(EnhancerConfig)}
    enhancer = tyro.cli(EnhancerConfig, args=["--compile", "True", "--mode", "off"])
    assert enhancer.compile is True and enhancer.mode == "off"
