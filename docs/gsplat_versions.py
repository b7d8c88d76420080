"""Writes docs/gsplat_versions.json and .md: what this package and splatfacto use of gsplat, in two releases of it.

python docs/gsplat_versions.py

Both releases, that which nerfstudio pins and the newest, are downloaded by pip and read, never imported.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
DATA = DOCS / "gsplat_versions.json"
PAGE = DOCS / "gsplat_versions.md"
PINNED = "1.4.0"

USED = {
    "rendering.py": ("rasterization",),
    "cuda/_wrapper.py": (
        "fully_fused_projection",
        "isect_tiles",
        "isect_offset_encode",
        "rasterize_to_pixels",
    ),
    "cuda/_torch_impl.py": ("_fully_fused_projection", "_quat_scale_to_covar_preci", "_spherical_harmonics"),
    "strategy/default.py": (
        "DefaultStrategy",
        "DefaultStrategy.initialize_state",
        "DefaultStrategy.step_pre_backward",
        "DefaultStrategy.step_post_backward",
        "DefaultStrategy._update_state",
        "DefaultStrategy._grow_gs",
    ),
    "strategy/mcmc.py": ("MCMCStrategy", "MCMCStrategy.initialize_state", "MCMCStrategy.step_post_backward"),
    "strategy/ops.py": ("remove", "_update_param_with_optimizer"),
    "utils.py": ("normalized_quat_to_rotmat",),
}
"""{file of gsplat: functions, and classes whose fields are arguments}"""

Release = dict[str, dict[str, Any]]
"""{name: {"arguments": {name: default as source, None if required}, "returns": annotation, "shapes": asserts}}"""


def read(package: Path) -> Release:
    """What a folder ``gsplat`` defines of ``USED``, without importing it."""
    found: Release = {}
    for file, names in USED.items():
        tree = ast.parse((package / file).read_text(encoding="utf-8"))
        nodes: dict[str, ast.AST] = {}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                nodes[node.name] = node
                methods = [part for part in getattr(node, "body", ()) if isinstance(part, ast.FunctionDef)]
                nodes |= {f"{node.name}.{method.name}": method for method in methods}
        for name in names:
            if name in nodes:  # what is not there is missing in that release
                found[name] = _described(nodes[name])
    return found


def _described(node: ast.AST) -> dict[str, Any]:
    if isinstance(node, ast.ClassDef):
        fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
        return {"arguments": {ast.unparse(part.target): part.value and ast.unparse(part.value) for part in fields}}
    assert isinstance(node, ast.FunctionDef)
    places = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(places) - len(node.args.defaults)) + node.args.defaults
    pairs = [*zip(places, defaults, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    return {
        "arguments": {place.arg: default and ast.unparse(default) for place, default in pairs},
        "returns": node.returns and ast.unparse(node.returns),
        "shapes": [
            ast.unparse(part.test)
            for part in ast.walk(node)
            if isinstance(part, ast.Assert) and ".shape ==" in ast.unparse(part.test)
        ],
    }


def download(version: str | None) -> tuple[str, Release]:
    """(version, what it defines) of a release on PyPI; None for the newest."""
    with tempfile.TemporaryDirectory() as folder:
        which = f"gsplat=={version}" if version else "gsplat"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", folder, which], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            files.extractall(folder)
        return wheel.name.split("-")[1], read(Path(folder) / "gsplat")


def page(releases: Mapping[str, Release]) -> str:
    """The page about the two releases."""
    (old_name, old), (new_name, new) = releases.items()
    rows = [(f"`{name}`", *row) for name in old for row in _differences(old[name], new.get(name))]
    same = [f"`{name}`" for name in old if f"`{name}`" not in {row[0] for row in rows}]
    lines = [
        "# gsplat's versions",
        "",
        f"nerfstudio 1.1.5 needs gsplat {old_name}; the newest release is {new_name}. Of what this package and",
        "splatfacto call, these arguments and shapes differ. `python docs/gsplat_versions.py` reads both releases and",
        "writes this page; the tests compare the package's calls with it.",
        "",
        f"| of gsplat | what | {old_name} | {new_name} |",
        "|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        f"The same in both: {', '.join(same)}.",
        "",
        *CONSEQUENCES,
        *WHEELS,
    ]
    return "\n".join(lines)


def _differences(before: dict[str, Any], after: dict[str, Any] | None) -> Iterator[tuple[str, ...]]:
    """Yield (what, how before, how after)."""
    if after is None:
        yield "", "there", "gone"
        return
    old, new = before["arguments"], after["arguments"]
    for name in [name for name in old if old[name] != new.get(name, "")]:
        yield f"`{name}`", _default(old, name), _default(new, name)
    if more := [name for name in new if name not in old]:
        yield "more arguments", "", ", ".join(f"`{name}`: {_default(new, name)}" for name in more)
    for place, names in enumerate(zip(old, new, strict=False), start=1):
        if names[0] != names[1]:
            yield "first place that differs", *(f"{place}: `{name}`" for name in names)
            break
    if before.get("returns") != after.get("returns"):
        yield "returns", f"`{before.get('returns')}`", f"`{after.get('returns')}`"
    shapes = [_shapes(description) for description in (before, after)]
    for name in [name for name in shapes[0] if name in shapes[1]]:  # else one of them asks for nothing
        cells = [", ".join(f"`{shape}`" for shape in found[name]) for found in shapes]
        if cells[0] != cells[1]:
            yield f"shape of `{name}`", *cells


def _shapes(description: dict[str, Any]) -> dict[str, list[str]]:
    """{argument: shapes that are asked of it}."""
    found: dict[str, list[str]] = {}
    for text in description.get("shapes", ()):
        name, _, shape = text.partition(".shape == ")
        found.setdefault(name, []).append(shape)
    return found


CONSEQUENCES = (
    "Most shapes have become more general and hold for one scene as before. Two differences would break this package",
    "with the newer release: radii have two numbers, one for each axis of the picture, which gsplat's strategies read",
    "from any rasterizer; and `isect_tiles` and `isect_offset_encode` count images instead of cameras.",
    "",
)
WHEELS = (
    "## Compiled packages",
    "",
    "gsplat on PyPI brings the sources of its CUDA kernels and compiles them at the first use, for which it needs the",
    "CUDA toolkit with the major version of torch's CUDA, a C++ compiler and Python's headers. Its own index,",
    "<https://docs.gsplat.studio/whl/gsplat>, has compiled packages, all of them for Python 3.10. This package needs",
    "Python 3.11 or 3.12: none of them fits.",
    "",
    "| torch | CUDA | file names have |",
    "|---|---|---|",
    "| 2.0 | 11.8 | `+pt20cu118` |",
    "| 2.1, 2.2, 2.3 | 11.8, 12.1 | `+pt21cu118`, `+pt21cu121` ... |",
    "| 2.4 | 11.8, 12.1, 12.4 | `+pt24cu118`, `+pt24cu121`, `+pt24cu124` |",
    "",
    "This table was read from a copy of the index, not from the index itself. It has all rows for 1.5.x; for 1.4.0",
    "the copy had only torch 2.2 and 2.3 with CUDA 11.8. None of the packages has been installed.",
    "",
)


def _default(arguments: Mapping[str, str | None], name: str) -> str:
    if name not in arguments:
        return "not there"
    return "required" if arguments[name] is None else f"`{arguments[name]}`"


def load() -> dict[str, Release]:
    """{version: release} as recorded, the pinned one first."""
    return json.loads(DATA.read_text(encoding="utf-8"))


def main() -> None:
    releases = dict([download(PINNED), download(None)])
    DATA.write_text(json.dumps(releases, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(releases), encoding="utf-8")


if __name__ == "__main__":
    main()
