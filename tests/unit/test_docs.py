"""The documentation tells only of what exists: commands, flags, files, variables, examples."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
import types
from itertools import dropwhile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tyro
from PIL import Image

from difix3d_ns.cli import COMMANDS
from difix3d_ns.io.sources import parse

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "difix3d_ns"
PAPERS = ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")
PAGES = [*(ROOT / f"{name}.md" for name in PAPERS), *sorted((ROOT / "docs").glob("*.md"))]
NERFSTUDIO = {
    "ns-eval": "nerfstudio.scripts.eval:ComputePSNR",
    "ns-export gaussian-splat": "nerfstudio.scripts.exporter:ExportGaussianSplat",
    "ns-process-data images": "nerfstudio.process_data.images_to_nerfstudio_dataset:ImagesToNerfstudioDataset",
    "ns-process-data polycam": "nerfstudio.scripts.process_data:ProcessPolycam",
    "ns-process-data record3d": "nerfstudio.scripts.process_data:ProcessRecord3D",
    "ns-process-data video": "nerfstudio.process_data.video_to_nerfstudio_dataset:VideoToNerfstudioDataset",
    "ns-render camera-path": "nerfstudio.scripts.render:RenderCameraPath",
    "ns-render dataset": "nerfstudio.scripts.render:DatasetRender",
    "ns-render interpolate": "nerfstudio.scripts.render:RenderInterpolated",
    "ns-viewer": "nerfstudio.scripts.viewer.run_viewer:RunViewer",
}
DATAPARSERS = {
    "colmap": "nerfstudio.data.dataparsers.colmap_dataparser:ColmapDataParserConfig",
    "nerfstudio-data": "nerfstudio.data.dataparsers.nerfstudio_dataparser:NerfstudioDataParserConfig",
}
"""At the end of a command of ns-train, with flags of their own."""
ELSEWHERE = {"accelerate", "apt-get", "bash", "conda", "docker", "source", "python"}
ELSEWHERE |= {".venv/bin/python", ".venv/bin/pre-commit"}
"""Programs whose flags are not checked here."""
NOT_OURS = {"--constraint", "--help", "--no-deps", "--user"}
"""Flags of pip, docker and of every command."""

pytestmark = pytest.mark.filterwarnings("ignore:get_parser:DeprecationWarning")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def _text(page: Path) -> str:
    return re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.S)


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _text(page), flags=re.S | re.M)


def _spans(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", _text(page), flags=re.S | re.M)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def _commands(page: Path) -> list[list[str]]:
    """Every command line of the page, split into words."""
    lines = [line for block in _blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += [span for span in _spans(page) if re.match(r"(difix3d|make|ns-[a-z-]+) ", span)]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@functools.cache
def _methods() -> dict[str, Any]:
    """The configs of our methods, by name: those that pyproject.toml announces to nerfstudio."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries = project["entry-points"]["nerfstudio.method_configs"].values()
    found = [getattr(importlib.import_module(entry.partition(":")[0]), entry.partition(":")[2]) for entry in entries]
    return {method.config.method_name: method.config for method in found}


@functools.cache
def _options(command: str) -> frozenset[str]:
    """The flags a command takes."""
    program, _, subcommand = command.partition(" ")
    if program == "difix3d":
        parser = tyro.extras.get_parser(COMMANDS[subcommand])
    elif program == "ns-train":
        config = _methods()[subcommand]
        parser = tyro.extras.get_parser(type(config), default=config)
    else:
        module, name = (NERFSTUDIO | DATAPARSERS)[command].split(":")
        try:
            home = importlib.import_module(module)
        except OSError:  # open3d without libusb; its flags can be read all the same
            with mock.patch.dict(sys.modules, {"open3d": mock.MagicMock()}):
                home = importlib.import_module(module)
        parser = tyro.extras.get_parser(getattr(home, name))
    return frozenset(option for action in parser._actions for option in action.option_strings)


def _check(words: list[str]) -> None:
    line = " ".join(words)
    words = list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))  # variables before the command
    program = words[0]
    if words == ["difix3d", "--version"]:
        return
    if program == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
        assert words[1] in targets, line
        return
    if program in ELSEWHERE:
        assert not words[1].endswith((".py", ".sh")) or (ROOT / words[1]).is_file(), line
        return
    command = program if program in NERFSTUDIO else " ".join(words[:2])
    for place, word in enumerate(words):
        if program == "ns-train" and word in DATAPARSERS:
            assert {flag for flag in words[place:] if flag.startswith("--")} <= _options(word), line
            words = words[:place]
            break
    if program == "difix3d":
        assert words[1] in COMMANDS, line
    elif program == "ns-train":
        assert words[1] in _methods(), line
    else:
        assert command in NERFSTUDIO, f"unknown command: {line}"
    given = {word.partition("=")[0] for word in words if word.startswith("--")} - NOT_OURS
    assert given <= _options(command), f"{line}: no flag {', '.join(sorted(given - _options(command)))}"


@pytest.mark.slow
@each_page
def test_commands_exist(page: Path) -> None:
    for words in _commands(page):
        _check(words)


def test_commands_are_found() -> None:
    lines = [" ".join(words) for page in PAGES for words in _commands(page)]
    assert "make demo" in lines
    assert "ns-train difix3d-splatfacto --data scene/" in lines
    assert any(line.startswith("difix3d train-prior") for line in lines)


@pytest.mark.parametrize(
    "line",
    [
        "make coffee",
        "difix3d brew",
        "difix3d fix a.png --outptu b.png",
        "ns-train difix3d-splatfacto --pipeline.guidance.fixer.nmae none",
        "ns-train difix3d-splatfacto --pipeline.rounds 0",
        "ns-train sparse-splatfacto --pipeline.guidance.rounds 0",
        "ns-train sparse-splatfacto --data scene nerfstudio-data --eval-mod all",
        "ns-train splatfacto",
        "ns-render dataset --names rgb",
        "python benchmarks/missing.py",
        "OUT=results bash tests/missing.sh",
        "rm -rf outputs",
    ],
)
def test_wrong_commands_are_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        _check(shlex.split(line))


@each_page
def test_flags_exist(page: Path) -> None:
    """Flags named in prose, `--flag` or `--flag value`."""
    flags = {span.split()[0] for span in _spans(page) if span.startswith("--")} - NOT_OURS
    commands = [f"ns-train {name}" for name in _methods()] + [f"difix3d {name}" for name in COMMANDS]
    unknown = {
        flag for flag in flags if not any(flag in _options(each) for each in [*commands, *NERFSTUDIO, *DATAPARSERS])
    }
    assert not unknown


def test_environment_variables() -> None:
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    known = set(re.findall(r"\bDIFIX3D_[A-Z]+\b", code))
    told = {name for page in PAGES for name in re.findall(r"\bDIFIX3D_[A-Z]+\b", _text(page))}
    assert told <= known
    settings = (ROOT / "docs" / "configuration.md").read_text()
    assert {name for name in known if name not in settings} == set()


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", _text(page))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def _section(page: Path, heading: str) -> str:
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", _text(page), flags=re.S | re.M)
    assert found, heading
    return found[1]


def test_architecture_lists_all_folders() -> None:
    table = _section(ROOT / "docs" / "architecture.md", "The folders")
    listed = re.findall(r"^\| `([a-z]+(?:/|\.py))` \|", table, flags=re.M)
    there = [f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")]
    there += [path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    assert sorted(listed) == sorted(there)


def test_architecture_names_what_is_there() -> None:
    """`path.py`: `name`, `name`: each is defined in that file."""
    text = " ".join(_text(ROOT / "docs" / "architecture.md").split())
    named = re.findall(r"`([a-z0-9_/]+\.py)`: (`\w+`(?:, `\w+`)*)", text)
    assert len(named) > 20
    for file, names in named:
        tree = ast.walk(parse((PACKAGE / file).read_text()))
        there = {node.name for node in tree if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert set(re.findall(r"\w+", names)) <= there, file
    files = set(re.findall(r"`([a-z0-9_]+/[a-z0-9_/]+\.py)`", text))
    assert [file for file in files if not (PACKAGE / file).exists() and not (ROOT / file).exists()] == []


def test_architecture_shows_contract_and_patches_of_the_code() -> None:
    reference = _script("reference")
    assert reference.ARCHITECTURE.read_text() == reference.architecture(), "run `make docs`"
    table = _section(reference.ARCHITECTURE, "Patches")
    rows = re.findall(r"^\| `(\w+)` \|.*\| `(tests/[^`]+)` \|$", table, flags=re.M)
    folder = PACKAGE / "ns" / "patches"
    assert {file for file, _ in rows} == {p.stem for p in folder.glob("*.py") if p.stem != "__init__"}
    assert [test for _, test in rows if not (ROOT / test.partition("::")[0]).is_file()] == []


def test_python_page_shows_the_examples_as_they_are() -> None:
    reference = _script("reference")
    assert reference.PYTHON.read_text() == reference.from_python(), "run `make docs`"
    assert [path.name[:2] for path in reference.EXAMPLES] == ["01", "02", "03", "04", "05"]


def test_picture_of_the_house_is_up_to_date() -> None:
    house = _script("house")
    arrows = house.imports()
    assert arrows["methods", "guidance"] > 0 and ("geometry", "ns") not in arrows
    assert house.PICTURE.read_text() == house.draw(arrows), "run `make docs`"


def test_picture_of_the_house_shows_an_import_that_points_up() -> None:
    house = _script("house")
    arrows = {("ns", "geometry"): 3}
    assert house.UP not in house.draw(arrows)
    assert house.UP in house.draw(arrows | {("geometry", "ns"): 1})


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page, "python")], ids=lambda path: path.name)
def test_examples_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in _blocks(page, "python"):
        example = types.ModuleType("example")
        monkeypatch.setitem(sys.modules, "example", example)  # dataclasses look their module up
        exec(compile(block, str(page), "exec"), example.__dict__)


@pytest.mark.slow
def test_the_example_of_the_fixers_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.official_difix import Official

    monkeypatch.chdir(tmp_path)
    script, picture = str(ROOT / "docs" / "examples" / "06_fix_file.py"), str(tmp_path / "render.png")
    Image.effect_noise((40, 30), 90).convert("RGB").save(picture)
    weights = str(Official().write(tmp_path / "difix_ref"))
    for chosen, changes in (("embedded", False), (weights, True)):
        monkeypatch.setattr(sys, "argv", [script, picture, picture, "fixed.png", chosen])
        runpy.run_path(script, run_name="__main__")
        with Image.open("fixed.png") as fixed, Image.open(picture) as before:
            assert fixed.size == (40, 30)
            assert (fixed.tobytes() != before.tobytes()) == changes
    assert "docs/examples/06_fix_file.py" in (ROOT / "docs" / "fixers.md").read_text()


def test_fixers_page_lists_no_fixer_that_is_gone() -> None:
    from difix3d_ns.priors.registry import available_fixers

    listed = re.findall(r"^\| `([a-z0-9-]+)` \|", _text(ROOT / "docs" / "fixers.md"), flags=re.M)
    assert len(listed) > 5 and set(listed) <= set(available_fixers())


def test_faq_names_the_licences_that_the_page_of_hi3d_names() -> None:
    (row,) = [line for line in _text(ROOT / "docs" / "faq.md").splitlines() if line.startswith("| Hi3D, SV3D")]
    terms = row.split("[")[1].split("]")[0].split(" / ")
    table = _section(ROOT / "docs" / "hi3d.md", "Published weights").split("```")[0]
    assert terms == ["non-commercial", "Stability AI community"] and all(term in table for term in terms)


def _script(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_those_on_record() -> None:
    changed = ["git", "-C", str(ROOT), "status", "--porcelain", "--", "benchmarks/results"]
    if subprocess.run(changed, capture_output=True, text=True, check=False).stdout.strip():
        pytest.skip("benchmarks were run here; `make docs` takes their figures into the pages")
    quality = _script("quality")
    for path in quality.BLOCKS:
        assert path.read_text(encoding="utf-8") == quality.filled(path), "run `make docs`"


def test_figures_follow_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from difix3d_ns.evaluation.bench.bench_recipe import load_recipe
    from difix3d_ns.evaluation.bench.job import Job, Scene
    from difix3d_ns.evaluation.bench.rows import add_rows
    from tests.unit.bench_states import finish
    from tests.unit.tiny_scene import write_scene

    quality, recipe = _script("quality"), load_recipe("default")
    rows: list[Any] = []
    for scene in ("fox", "castle"):
        folder = tmp_path / scene
        write_scene(folder)
        for training, gain in {"plain": 0.0, "plain-mcmc": 0.25, "difix3d": 1.5}.items():
            job = Job(Scene(folder, scene), training, 0)
            names = [method.name for method in recipe.evaluations(training) if not method.earlier]
            rows += finish(job, recipe, tmp_path / "output", dict.fromkeys(names, 20.0 + gain))
    add_rows(tmp_path / "record" / "bench-default.jsonl", rows)
    monkeypatch.setattr(quality, "RECORD", tmp_path / "record")
    told = quality.headline()
    assert "**+1.50 ± 0.00 dB** PSNR over splatfacto" in told and "**+1.25 ± 0.00 dB** over its best variant" in told
    assert "2 real captures (fox, castle)" in told and "Incomplete: fountain, sceaux, fern not measured yet" in told
    assert "(`plain-mcmc`) | 20.25 |" in told and "2026-11-21" in told
    assert "| difix3d | **21.50** |" in quality.table()
    assert quality.ablation() == quality.hard() == "Not measured yet."


def test_figures_of_ablation_hard_scenes_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from difix3d_ns.evaluation.bench.bench_recipe import load_recipe
    from difix3d_ns.evaluation.bench.job import Job, Scene
    from difix3d_ns.evaluation.bench.rows import add_rows
    from tests.unit.bench_states import finish
    from tests.unit.tiny_scene import write_scene

    quality = _script("quality")
    write_scene(tmp_path / "far")
    rows = {"ablation": {"difix3d": 22.0, "one-round": 21.9}, "hard": {"plain": 20.0, "difix3d": 19.5}}
    rows["exported"] = {"difix3d": 22.0, "as-ply": 22.0, "as-exported": 21.9, "as-compressed": 21.5}
    for name, means in rows.items():
        recipe = load_recipe(name)
        for row, psnr in means.items():
            job = Job(Scene(tmp_path / "far", "far"), recipe.methods[row].training, 0)
            add_rows(tmp_path / "record" / f"bench-{name}.jsonl", finish(job, recipe, tmp_path / name, {row: psnr}))
    monkeypatch.setattr(quality, "RECORD", tmp_path / "record")
    (row,) = [line for line in quality.ablation().splitlines() if line.startswith("| one-round")]
    assert "| -0.10 |" in row and "| undecided | `--pipeline.guidance.rounds 1` |" in row
    assert "| `as-exported` | `.spz` | 21.90 |" in quality.exported()
    assert "`.ply` far +0.000; `.spz` far -0.100; `.compressed.ply` far -0.500." in quality.exported()
    assert "| far | 20.00 | - | 19.50 | - | -0.50, +0.000, +0.000 | - | - |" in quality.hard()


def test_scenes_that_fixing_harms_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from difix3d_ns.evaluation.bench.bench_recipe import load_recipe
    from difix3d_ns.evaluation.bench.job import Job, Scene
    from difix3d_ns.evaluation.bench.rows import add_rows
    from tests.unit.bench_states import finish
    from tests.unit.tiny_scene import write_scene

    quality, recipe = _script("quality"), load_recipe("default")
    monkeypatch.setattr(quality, "RECORD", tmp_path / "record")
    assert quality.harm() == "Not measured yet."
    for scene, psnr in {"fox": 20.0, "lund_door": 19.0}.items():
        write_scene(tmp_path / scene)
        for training, means in {"plain": {"plain": 20.0}, "difix3d": {"difix3d": psnr, "difix3d+": 20.0}}.items():
            job = Job(Scene(tmp_path / scene, scene), training, 0)
            rows = finish(job, recipe, tmp_path / "output", means)
            add_rows(tmp_path / "record" / "bench-default.jsonl", rows)
    assert quality.harm() == "- **lund_door**: `difix3d` over `plain`: PSNR -1.00"


def test_the_record_is_whole() -> None:
    for path in (ROOT / "benchmarks" / "results").glob("bench-*.jsonl"):
        keys = []
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            keys.append((entry["run"], json.dumps(entry["evaluation"], sort_keys=True)))
            if entry["scene"] is None:
                assert entry["metrics"]["fid"] > 0 and entry["commit"] and entry["runs"]
            else:
                assert entry["metrics"]["psnr"] > 0 and entry["commit"] and entry["flags"]
        assert len(set(keys)) == len(keys), path.name


def test_settings_page_is_up_to_date() -> None:
    reference = _script("reference")
    assert reference.PAGE.read_text() == reference.page(), "run `make docs`"
    rows = [row for _, prefix, settings in reference.sections() for row in reference.flags(prefix, settings)]
    commands = [_options(f"ns-train {name}") for name in _methods()]
    assert {flag for flag, *_ in rows} <= frozenset().union(*commands)
    assert "--pipeline.guidance.targets.camera-path" in {flag for flag, *_ in rows}


def test_commands_page_is_up_to_date() -> None:
    commands = _script("commands")
    assert commands.PAGE.read_text() == commands.page(), "run `make docs`"


def test_commands_page_lists_every_command_and_flag() -> None:
    page = ROOT / "docs" / "commands.md"
    headings = re.findall(r"^## difix3d (\S+)$", _text(page), flags=re.M)
    assert headings == list(COMMANDS)
    for name in COMMANDS:
        listed = set(re.findall(r"^- `(--[a-z0-9-]+)", _section(page, f"difix3d {name}"), flags=re.M))
        options = {option for option in _options(f"difix3d {name}") if not option.startswith("--no-")}
        assert listed == options - {"-h", "--help"}
    assert [name for name in _methods() if f"`ns-train {name}`" not in _text(page)] == []


def test_settings_page_lists_all_settings_of_all_methods() -> None:
    reference = _script("reference")
    rows = [row for _, prefix, settings in reference.SHARED for row in reference.flags(prefix, settings)]
    assert len(rows) > 20
    assert list(reference.methods()) == list(_methods())
    for name in _methods():
        assert {flag for flag, *_ in rows} <= _options(f"ns-train {name}")
    assert reference.missing() == []
