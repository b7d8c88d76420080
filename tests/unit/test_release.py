"""Papers of a release: version, changelog, citation, workflow, templates, and what the wheel holds."""

from __future__ import annotations

import re
import subprocess
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

import difix3d_ns

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
METHODS = set(PROJECT["project"]["entry-points"]["nerfstudio.method_configs"])
WORKFLOW = ROOT / ".github" / "workflows" / "check.yml"
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
PAPERS = {
    "Difix3D+: Improving 3D Reconstructions with Single-Step Diffusion Models",
    "Bridging Diffusion Models and 3D Representations: A 3D Consistent Super-Resolution Framework",
    "SparseFusion: Distilling View-conditioned Diffusion for 3D Reconstruction",
    "Hi3D: Pursuing High-Resolution Image-to-3D Generation with Video Diffusion Models",
    "Fine-grained information transfer: Details Refinement module for Diffusion based 3D Generation model",
}
DATA = {
    "priors/weights": ("embedded", "upscaler", "depth", "eft", "sparsefusion", "hi3d"),
    "evaluation/report/templates": ("page.html", "style.css", "script.js"),
}
"""what commands read beside code, by folder of the package; of weights both files"""


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.M))


def _called_targets(workflow: Any) -> list[str]:
    """Targets of every ``make`` in the steps of a workflow."""
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    lines = [line for step in steps for line in re.split(r"\n|&&|;", step.get("run", ""))]
    words = [line.split() for line in lines]
    return [word for line in words if line[:1] == ["make"] for word in line[1:] if "=" not in word and word[0] != "-"]


def test_version_stands_in_one_place() -> None:
    project = PROJECT["project"]
    assert "version" in project["dynamic"] and "version" not in project
    source = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert re.findall(r'^__version__ = "(.*)"$', source.read_text(), flags=re.M) == [difix3d_ns.__version__]
    assert re.fullmatch(r"\d+\.\d+\.\d+", difix3d_ns.__version__)


def test_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\S+)$", text, flags=re.M)
    assert versions[0][0] == difix3d_ns.__version__
    days = [date.fromisoformat(day) for _, day in versions]
    assert len(versions) > 1 and days == sorted(days, reverse=True)
    kinds = set(re.findall(r"^### (.*)$", text, flags=re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Known limits"}


def test_citation_is_of_this_version_and_names_the_papers() -> None:
    citation = _yaml(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    assert citation["version"] == difix3d_ns.__version__
    (day,) = re.findall(rf"^## \[{difix3d_ns.__version__}\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert str(citation["date-released"]) == day
    assert citation["license"] == PROJECT["project"]["license"]
    assert {reference["title"] for reference in citation["references"]} == PAPERS
    for entry in (citation, *citation["references"]):
        assert all(person.keys() in ({"family-names", "given-names"}, {"name"}) for person in entry["authors"])
    notes = " ".join(reference["notes"] for reference in citation["references"])
    assert set(re.findall(r"\w+-splatfacto", notes)) <= METHODS


def test_workflow_calls_targets_that_exist() -> None:
    workflow = _yaml(WORKFLOW)
    called = _called_targets(workflow)
    assert {"setup", "check"} <= set(called) <= _make_targets()
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML reads the key `on` as true
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    assert all("@" in step["uses"] for step in steps if "uses" in step)


def test_wrong_target_is_noticed() -> None:
    steps = [{"run": "sudo true && make chekc PYTHON=python"}, {"uses": "actions/checkout@v4"}]
    assert set(_called_targets({"jobs": {"one": {"steps": steps}}})) - _make_targets() == {"chekc"}


def test_workflow_runs_on_every_python_there_is_a_classifier_for() -> None:
    (job,) = _yaml(WORKFLOW)["jobs"].values()
    tried = job["strategy"]["matrix"]["python"]
    lines = PROJECT["project"]["classifiers"]
    assert tried == [found[1] for line in lines if (found := re.fullmatch(r".*Python :: (3\.\d+)", line))]
    first, last = (int(version.partition(".")[2]) for version in (tried[0], tried[-1]))
    assert PROJECT["project"]["requires-python"] == f">=3.{first},<3.{last + 1}"


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_issue_forms(form: Path) -> None:
    content = _yaml(form)
    assert content["name"] and content["description"]
    fields = [part for part in content["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    assert len({part["id"] for part in fields}) == len(fields) and all(part["attributes"]["label"] for part in fields)


def _packaged() -> set[str]:
    """Files of the package that hatch takes into a wheel, by the rules of pyproject.toml."""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["difix3d_ns"] and not {"exclude", "only-include"} & wheel.keys()
    package = ROOT / "difix3d_ns"
    found = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    for source, target in wheel["force-include"].items():
        folder = ROOT / source
        inside = Path(target).relative_to("difix3d_ns")
        found |= {str(inside / path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found


def test_wheel_has_weights_templates_and_recipes() -> None:
    found = _packaged()
    for folder, names in DATA.items():
        files = [n for name in names for n in ([name] if "." in name else [f"{name}.safetensors", f"{name}.json"])]
        assert {f"{folder}/{file}" for file in files} <= found
    assert {f"configs/{path.parent.name}/{path.name}" for path in (ROOT / "configs").glob("*/*.yaml")} <= found


def test_git_ignores_nothing_that_the_wheel_needs() -> None:
    """Hatch leaves out what git ignores."""
    files = [f"difix3d_ns/{name}" for name in _packaged() if "__pycache__" not in name]
    files = [file for file in files if (ROOT / file).is_file()]
    run = subprocess.run(
        ["git", "-C", str(ROOT), "check-ignore", "--no-index", "--stdin"],
        input="\n".join([*files, "build/x"]), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode == 128:
        pytest.skip("no git checkout")
    assert run.stdout.split() == ["build/x"]
