"""Writes docs/configuration.md from the settings' dataclasses, so that the page cannot disagree with the code.

python docs/reference.py [--check]
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

from difix3d_ns.enhance.settings import EnhancerConfig
from difix3d_ns.guidance.difix import DifixConfig, TargetConfig
from difix3d_ns.initialization.stereo_points import InitialPointsConfig
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.methods.sparse import sparse_splatfacto
from difix3d_ns.ns import presets
from difix3d_ns.ns.datamanager import SceneDatamanagerConfig
from difix3d_ns.ns.model import SplatModelConfig
from difix3d_ns.ns.pipeline import GuidedPipelineConfig
from difix3d_ns.ns.trainer import CPU_ITERATIONS, CUDA_ITERATIONS, GuidedTrainerConfig
from difix3d_ns.priors.settings import FixerConfig
from difix3d_ns.splats.floaters import FloatersConfig

COLUMNS = "| flag | values | default | meaning |"
PAGE = Path(__file__).with_name("configuration.md")
METHODS = {m.config.method_name: m.config for m in (difix3d_splatfacto, sparse_splatfacto)}
FEW = 12  # photographs, for settings that follow their number

SHARED: list[tuple[str, str, type]] = [
    ("Training", "", GuidedTrainerConfig),
    ("Photos", "pipeline.datamanager", SceneDatamanagerConfig),
    ("Splat", "pipeline.model", SplatModelConfig),
    ("Helps for sparse captures", "pipeline", GuidedPipelineConfig),
    ("Initial points", "pipeline.initial-points", InitialPointsConfig),
    ("Floaters", "pipeline.floaters", FloatersConfig),
    ("Enhancer", "pipeline.enhancer", EnhancerConfig),
]
"""Heading, where the flags hang, the dataclass that defines them: of every method."""

GUIDANCE: dict[str, list[tuple[str, str, type]]] = {
    "difix3d-splatfacto": [
        ("Guidance: Difix3D+", "pipeline.guidance", DifixConfig),
        ("Targets", "pipeline.guidance.targets", TargetConfig),
        ("Fixer", "pipeline.guidance.fixer", FixerConfig),
    ],
}
"""The same of one method's guidance; sparse-splatfacto's has no settings."""

SECTIONS = [*SHARED, *(section for sections in GUIDANCE.values() for section in sections)]

HEAD = """\
<!-- Written by docs/reference.py: change the docstrings in the code, then run `make docs`. -->

# Settings

These are the flags of `ns-train difix3d-splatfacto` and `ns-train sparse-splatfacto` that this package adds or
changes. All other flags are splatfacto's; `ns-train difix3d-splatfacto --help` lists them all. A flag you give is never
overruled. A flag that is *unset* gets a value that fits the device and `--max-num-iterations`; the
[last table](#fitted-values) shows which.

Both methods take all flags up to [Enhancer](#enhancer). The `--pipeline.guidance.*` flags belong to
`difix3d-splatfacto`; `sparse-splatfacto` has no prior and none of them. With `--pipeline.sparse-helps False` it is
plain splatfacto, with the same settings and on any device.
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
({cuda:,} steps), and in a training of 10,000 steps without CUDA. They are the same for both methods. With
`--pipeline.sparse-helps False`, initial points and clearance are 0. The learning rates of positions and cameras decay
over the whole training.

| flag | CPU, {cpu:,} steps | CUDA, {cuda:,} steps | CPU, 10,000 steps |
|---|---|---|---|
"""


def field_texts(settings: type) -> dict[str, tuple[str, str]]:
    """{field: (type as written, docstring below it)} of the fields a dataclass itself defines, in order."""
    body = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0].body  # type: ignore[attr-defined]
    fields = {field.name for field in dataclasses.fields(settings)}
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
        if name.startswith("_") or field.default is dataclasses.MISSING:
            continue
        if not text:
            raise SystemExit(f"{settings.__name__}.{name} has no docstring")
        rows.append((flag(prefix, name), _values(kind), _default(field.default), text))
    return rows


def flag(prefix: str, name: str) -> str:
    """The command-line flag of a field."""
    return "--" + ".".join(part for part in (prefix, name) if part).replace("_", "-")


def fitted_rows() -> list[str]:
    """One table row per flag that is filled in at set-up."""
    configs = [_fitted("cpu", None), _fitted("cuda", None), _fitted("cpu", 10_000)]
    rows = []
    for _, prefix, settings in SECTIONS:
        for name in field_texts(settings):
            values = [getattr(_at(config, prefix), name) for config in configs]
            if getattr(_at(difix3d_splatfacto.config, prefix), name) is None and None not in values:
                rows.append(f"| `{flag(prefix, name)}` | " + " | ".join(f"{value:,}" for value in values) + " |")
    return rows


def missing() -> list[str]:
    """Flags of our own settings that no section lists."""
    listed = {(prefix, settings) for _, prefix, settings in SECTIONS}
    found = []
    for config in METHODS.values():
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
    parts = [HEAD]
    for heading, prefix, settings in SECTIONS:
        rows = [
            f"| `{name}` | {values} | {default} | {text.replace('|', chr(92) + '|')} |"
            for name, values, default, text in flags(prefix, settings)
        ]
        parts.append("\n".join([f"## {heading}", "", COLUMNS, "|---|---|---|---|", *rows]))
    parts.append(ENVIRONMENT)
    head = FITTED_HEAD.format(cpu=CPU_ITERATIONS, cuda=CUDA_ITERATIONS, few=FEW)
    return "\n\n".join([*(part.rstrip() for part in parts), head + "\n".join(fitted_rows())]) + "\n"


def _fitted(device: str, steps: int | None) -> Any:
    config = copy.deepcopy(difix3d_splatfacto.config)
    config.machine.device_type = device  # type: ignore[assignment]
    if steps is not None:
        config.max_num_iterations = steps
    run = config.run()  # type: ignore[attr-defined]
    presets.fit(config, run)
    presets.fit(config, dataclasses.replace(run, images=FEW))
    return config


def _at(config: Any, path: str) -> Any:
    for name in filter(None, path.replace("-", "_").split(".")):
        config = getattr(config, name)
    return config


def _values(kind: str) -> str:
    if kind == "EnhanceMode":
        kind = "Literal['off', 'key', 'rgb']"
    kind = kind.replace("Precision", "Literal['float32', 'bfloat16', 'float16']")
    options = [option.strip() for option in kind.split("|") if option.strip() != "None"]
    names = {"int": "integer", "float": "number", "bool": "`True`, `False`", "str": "text", "Path": "path"}
    if len(options) == 1 and options[0].startswith("Literal["):
        return ", ".join(f"`{choice}`" for choice in ast.literal_eval(options[0][len("Literal") :]))
    return ", ".join(names.get(option, f"`{option}`") for option in options)


def _default(value: Any) -> str:
    return "*unset*" if value is None else f"`{value}`"


def main() -> None:
    """Write the page, or with --check say whether it is out of date."""
    text = page()
    if "--check" in sys.argv[1:]:
        sys.exit(0 if PAGE.is_file() and PAGE.read_text() == text else f"{PAGE} is out of date: run `make docs`")
    PAGE.write_text(text)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
