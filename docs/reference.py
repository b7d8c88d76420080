"""Writes what the code says of itself into the pages: all of docs/configuration.md, two parts of docs/architecture.md.

python docs/reference.py [--check]
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from difix3d_ns.enhance.enhancer_config import EnhancerConfig
from difix3d_ns.guidance import base
from difix3d_ns.initialization.estimated_depths import PhotoDepthConfig
from difix3d_ns.initialization.stereo_points import InitialPointsConfig
from difix3d_ns.ns import presets
from difix3d_ns.ns.datamanager import SceneDatamanagerConfig
from difix3d_ns.ns.dataparsers.photo_orbit import SinglePhotoConfig
from difix3d_ns.ns.model import SplatModelConfig
from difix3d_ns.ns.patches import PATCHES
from difix3d_ns.ns.pipeline import GuidedPipelineConfig
from difix3d_ns.ns.trainer import CPU_ITERATIONS, CUDA_ITERATIONS, GuidedTrainerConfig
from difix3d_ns.priors.orbit_generator_config import OrbitGeneratorConfig
from difix3d_ns.splats.floaters import FloatersConfig

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "configuration.md"
ARCHITECTURE = DOCS / "architecture.md"
PYTHON = ARCHITECTURE.with_name("python.md")
EXAMPLES = sorted(ARCHITECTURE.parent.glob("examples/0[1-5]_*.py"))
"""numbered examples that docs/python.md shows"""
MAIN = "difix3d-splatfacto"
FEW = 12  # photographs, for settings that follow their number

SHARED: list[tuple[str, str, type]] = [
    ("Training", "", GuidedTrainerConfig),
    ("Photos", "pipeline.datamanager", SceneDatamanagerConfig),
    ("One photo", "pipeline.datamanager.photo", SinglePhotoConfig),
    ("Frames of one photo", "pipeline.datamanager.photo.generator", OrbitGeneratorConfig),
    ("Splat", "pipeline.model", SplatModelConfig),
    ("Helps for sparse captures", "pipeline", GuidedPipelineConfig),
    ("Initial points", "pipeline.initial-points", InitialPointsConfig),
    ("Depth of photos", "pipeline.depth", PhotoDepthConfig),
    ("Floaters", "pipeline.floaters", FloatersConfig),
    ("Enhancer", "pipeline.enhancer", EnhancerConfig),
]
"""Heading, where the flags hang, the dataclass that defines them: of every method."""

HEAD = """\
<!-- Written by docs/reference.py: change the docstrings in the code, then run `make docs`. -->

# Settings

These are the flags that this package adds to splatfacto or changes. Its methods are
{methods}.

All other flags are splatfacto's; `ns-train difix3d-splatfacto --help` lists them all. A flag you give is never
overruled. A flag that is *unset* gets a value that fits the device and `--max-num-iterations`: see the
[last table](#fitted-values).

Every method takes all flags up to [Enhancer](#enhancer). Flags that a method adds follow under its name.
`sparse-splatfacto` adds none. With `--pipeline.sparse-helps False` it is plain splatfacto, with the
same settings and on any device.
"""

ENVIRONMENT = """\
## Environment variables

A finished training carries its settings in `config.yml`. These variables change how it is shown by `ns-viewer`,
`ns-render` and `ns-eval`, without training again. `ns-train` follows its flags alone.

| variable | values | what it does |
|---|---|---|
| `DIFIX3D_ENHANCE` | `off`, `key`, `rgb` | `key` (the default): a further output `enhanced`. `rgb`: the output \
`rgb` itself is enhanced and the plain render is called `raw`. `off`: neither. Instead of `--pipeline.enhancer.mode`. |
| `DIFIX3D_WEIGHTS` | a file or folder | weights of the fixer, instead of `--pipeline.enhancer.weights` |
| `DIFIX3D_STRENGTH` | a number from 0 to 1 | 0 = the render, 1 = the fixer's picture, instead of \
`--pipeline.enhancer.strength` |
"""

FITTED_HEAD = """\
## Fitted values

What unset flags become with {few} photos: by default without CUDA ({cpu:,} steps), by default with CUDA
({cuda:,} steps), and in a training of 10,000 steps without CUDA. They are the same for all methods. With
`--pipeline.sparse-helps False`, initial points and `min-depth` are 0. The learning rates of positions and cameras decay
over the whole training.

| flag | CPU, {cpu:,} steps | CUDA, {cuda:,} steps | CPU, 10,000 steps |
|---|---|---|---|
"""


def methods() -> dict[str, Any]:
    """Configs of our methods, by name, in the order in which pyproject.toml announces them to nerfstudio."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entries = [entry.split(":") for entry in project["entry-points"]["nerfstudio.method_configs"].values()]
    found = [getattr(importlib.import_module(module), name).config for module, name in entries]
    return {config.method_name: config for config in found}


def sections() -> list[tuple[str, str, type]]:
    """All sections: the shared ones, then what each method's guidance adds."""
    found = list(SHARED)
    for method, config in methods().items():
        for name, part in presets.walk(config.pipeline.guidance, "--pipeline.guidance"):
            group = name.removeprefix("--pipeline.guidance").lstrip(".")
            heading = f"Guidance of {method}" + (f": {group}" if group else "")
            if flags(name[2:], type(part)):
                found.append((heading, name[2:], type(part)))
    return found


def field_texts(settings: type) -> dict[str, tuple[str, str]]:
    """{field: (type as written, docstring below it)} of the fields a dataclass itself defines, in order."""
    body = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0].body  # type: ignore[attr-defined]
    fields = {field.name for field in dataclasses.fields(settings) if field.init}
    texts = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if statement.target.id not in fields:
            continue
        text = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = " ".join(str(following.value.value).split())
        texts[statement.target.id] = (ast.unparse(statement.annotation), text)
    return texts


def flags(prefix: str, settings: type) -> list[tuple[str, str, str, str]]:
    """(flag, values, default, meaning) of every flag a dataclass adds; groups of flags have sections of their own."""
    rows = []
    defaults = {field.name: field for field in dataclasses.fields(settings)}
    for name, (kind, text) in field_texts(settings).items():
        field = defaults[name]
        if name.startswith("_") or field.default is dataclasses.MISSING or "Suppress" in kind:
            continue
        if not text:
            raise SystemExit(f"{settings.__name__}.{name} has no docstring")
        rows.append((flag(prefix, name), _values(kind, settings), _default(field.default), text))
    return rows


def flag(prefix: str, name: str) -> str:
    """The command-line flag of a field."""
    return "--" + ".".join(part for part in (prefix, name) if part).replace("_", "-")


def fitted_rows() -> list[str]:
    """One table row per flag that is filled in at set-up."""
    configs = [_fitted("cpu", None), _fitted("cuda", None), _fitted("cpu", 10_000)]
    rows = []
    for heading, prefix, settings in sections():
        if heading.startswith("Guidance of") and MAIN not in heading:
            continue
        for name in field_texts(settings):
            values = [getattr(_at(config, prefix), name) for config in configs]
            if getattr(_at(methods()[MAIN], prefix), name) is None and None not in values:
                texts = [value if isinstance(value, str) else f"{value:,}" for value in values]
                rows.append(f"| `{flag(prefix, name)}` | " + " | ".join(texts) + " |")
    return rows


def missing() -> list[str]:
    """Flags of our own settings that no section lists."""
    listed = {(prefix, settings) for _, prefix, settings in sections()}
    found = []
    for config in methods().values():
        for name, part in presets.walk(config):
            kind, prefix = type(part), name.lstrip("-")
            if kind.__module__.startswith("difix3d_ns.") and not prefix.startswith("optimizers"):
                own = [] if (prefix, kind) in listed else flags(prefix, kind)
                found += [flag for flag, *_ in own]
    return found


def page() -> str:
    """The whole page as Markdown."""
    if left_out := missing():
        raise SystemExit(f"no section of docs/reference.py lists {', '.join(left_out)}")
    names = [f"`{name}`" for name in methods()]
    parts = [HEAD.replace("{methods}", ", ".join(names[:-1]) + f" and {names[-1]}")]
    for heading, prefix, settings in sections():
        rows = [
            f"- `{name}` ({values}; default {default}): {text.rstrip('.')}."
            for name, values, default, text in flags(prefix, settings)
        ]
        parts.append("\n".join([f"## {heading}", "", *rows]))
    parts.append(ENVIRONMENT)
    head = FITTED_HEAD.format(cpu=CPU_ITERATIONS, cuda=CUDA_ITERATIONS, few=FEW)
    return "\n\n".join([*(part.rstrip() for part in parts), head + "\n".join(fitted_rows())]) + "\n"


def _fitted(device: str, steps: int | None) -> Any:
    config = copy.deepcopy(methods()[MAIN])
    config.machine.device_type = device
    if steps is not None:
        config.max_num_iterations = steps
    run = config.run()
    presets.fit(config, run)
    presets.fit(config, dataclasses.replace(run, images=FEW))
    return config


def _at(config: Any, path: str) -> Any:
    for name in filter(None, path.replace("-", "_").split(".")):
        config = getattr(config, name)
    return config


def _values(kind: str, settings: type) -> str:
    """Values of a field in words; a name stands for the Literal that it is in the file of its dataclass."""
    known = vars(sys.modules[settings.__module__])
    options = [option.strip() for option in kind.split("|") if option.strip() != "None"]
    names = {"int": "integer", "float": "number", "bool": "`True`, `False`", "str": "text", "Path": "path"}
    names["tuple[Path, ...]"] = "paths"
    options = [option if option in names else str(known.get(option, option)) for option in options]
    options = [option.removeprefix("typing.") for option in options]
    if len(options) == 1 and options[0].startswith("Literal["):
        return ", ".join(f"`{choice}`" for choice in ast.literal_eval(options[0][len("Literal") :]))
    return ", ".join(names.get(option, f"`{option}`") for option in options)


def _default(value: Any) -> str:
    return "*unset*" if value in (None, ()) else f"`{value}`"


def contract() -> str:
    """What a guidance is asked: its methods, each with the first sentence of its docstring."""
    (guidance,) = [
        node
        for node in ast.parse(inspect.getsource(base)).body
        if isinstance(node, ast.ClassDef) and node.name == "Guidance"
    ]
    lines = ["```python", "class Guidance:"]
    for node in guidance.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            sentence = str(ast.get_docstring(node)).splitlines()[0]
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            lines += [f"    def {node.name}({ast.unparse(node.args)}){returns}:", f'        """{sentence}"""', ""]
    return "\n".join([*lines[:-1], "```"])


def patches() -> str:
    """Table of what is forced on nerfstudio, torch and Python."""
    rows = [f"| `{p.module}` | {p.what} | {p.why} | {p.version} | `{p.test}` |" for p in PATCHES]
    return "\n".join(["| file | what | why | needed by | test |", "|---|---|---|---|---|", *rows])


def architecture() -> str:
    """docs/architecture.md with its generated parts as the code is now."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    for name, part in (("guidance", contract()), ("patches", patches())):
        pattern = re.compile(rf"(<!-- code:{name} -->\n).*?(<!-- /code -->)", re.S)
        text, count = pattern.subn(lambda found, part=part: f"{found[1]}\n{part}\n\n{found[2]}", text)  # type: ignore[misc]
        assert count == 1, name
    return text


def from_python() -> str:
    """docs/python.md with the examples as their files are now."""
    block = re.compile(r"(<!-- example:(\S+) -->\n).*?(<!-- /example -->)", re.S)
    text, count = block.subn(_example, PYTHON.read_text(encoding="utf-8"))
    assert count == len(EXAMPLES), f"{PYTHON} shows {count} of {len(EXAMPLES)} examples"
    return text


def _example(found: re.Match[str]) -> str:
    (file,) = (path for path in EXAMPLES if path.name == found[2])
    return f"{found[1]}\n```py\n{file.read_text(encoding='utf-8')}```\n\n{found[3]}"


def main() -> None:
    """Write the pages, or with --check say which is out of date."""
    for path, text in ((PAGE, page()), (ARCHITECTURE, architecture()), (PYTHON, from_python())):
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path} is out of date: run `make docs`")


if __name__ == "__main__":
    main()
