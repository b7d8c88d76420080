"""Docker and conda files: the same packages everywhere, the CUDA of the pinned torch, and all files that they read."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lowest_bounds import lowest_bounds

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "environments"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
CONDA = sorted(FOLDER.glob("*.yml"))
CONSTRAINTS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTALL = (ROOT / "docs" / "install.md").read_text()


def _steps(dockerfile: Path) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile with what follows them, in order."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.M).replace("\\\n", " ")
    return [(words[0], words[1]) for line in text.splitlines() if len(words := line.split(maxsplit=1)) == 2]


def _system_packages(command: str) -> set[str]:
    """What ``apt-get install`` in a command line installs."""
    found = re.findall(r"apt-get install ([^&;#\n]*)", command)
    return {word for names in found for word in shlex.split(names) if not word.startswith("-")}


def _conda(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles_install_what_the_page_says(dockerfile: Path) -> None:
    packages = set().union(*(_system_packages(text) for step, text in _steps(dockerfile) if step == "RUN"))
    of_page = _system_packages(INSTALL.split("## On Debian or Ubuntu")[1].split("## ")[0])
    assert len(of_page) > 5 and packages == of_page - {"make"} | {"ca-certificates"}
    assert f"environments/{dockerfile.name}" in INSTALL


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_base_images_are_pinned(dockerfile: Path) -> None:
    (base,) = [text for step, text in _steps(dockerfile) if step == "FROM"]
    assert re.fullmatch(r"[a-z/]+:[a-z0-9.-]*\d[a-z0-9.-]*|debian:[a-z]+-slim", base) and "latest" not in base


def test_cuda_is_that_of_the_pinned_torch() -> None:
    major = CONSTRAINTS["cuda-toolkit"].partition(".")[0]
    (base,) = [text for step, text in _steps(FOLDER / "cuda.Dockerfile") if step == "FROM"]
    assert base.startswith(f"nvidia/cuda:{major}.") and "-devel-" in base  # nvcc is in devel alone
    (toolkit,) = [each for each in _conda(FOLDER / "conda-cuda.yml")["dependencies"] if "cuda" in str(each)]
    assert toolkit.startswith(f"cuda-toolkit={major}.")


def test_images_hold_all_that_the_installation_reads() -> None:
    kept = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), flags=re.M)
    project = PROJECT["project"]
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], *project["license-files"], project["readme"]}
    assert set(kept) == needed | {"pyproject.toml", "constraints.txt"}
    assert all((ROOT / name).exists() for name in kept)


@pytest.mark.parametrize("path", CONDA, ids=lambda path: path.stem)
def test_conda_files(path: Path) -> None:
    content = _conda(path)
    assert content["channels"] == ["conda-forge", "nodefaults"]
    assert f"environments/{path.name}" in INSTALL and content["name"] in INSTALL
    python = next(each for each in content["dependencies"] if str(each).startswith("python="))
    assert f"Programming Language :: Python :: {python.partition('=')[2]}" in PROJECT["project"]["classifiers"]
    pip = content["dependencies"][-1]["pip"]
    assert pip[-1] == ".." and "--constraint ../constraints.txt" in pip  # conda runs pip in the file's folder
    assert (path.parent / pip[-1] / "pyproject.toml").is_file()


def test_lowest_bounds() -> None:
    pins = dict(line.split("==") for line in lowest_bounds())
    assert pins["nerfstudio"] == "1.1.5" and pins["torch"] == "2.4" and pins["torchmetrics"] == "1.0.1"
    requirements = PROJECT["project"]["dependencies"]
    bounded = {re.match(r"[\w.-]+", each)[0] for each in requirements if re.search(r"[>=]=", each)}  # type: ignore[index]
    assert bounded <= set(pins) and "viser" not in pins
