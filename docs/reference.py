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
from unittest import mock

from difix3d_ns.enhance.enhancer import FixerSettings
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.ns.datamanager import SceneDatamanagerConfig
from difix3d_ns.ns.model import SplatModelConfig
from difix3d_ns.ns.pipeline import GuidedPipelineConfig, TargetSettings
from difix3d_ns.ns.presets import CPU_ITERATIONS, CUDA_ITERATIONS, settle
from difix3d_ns.ns.trainer import GuidedTrainerConfig

COLUMNS = "| flag | values | default | meaning |"
PAGE = Path(__file__).with_name("configuration.md")

SECTIONS: list[tuple[str, str, type]] = [
    ("Training", "", GuidedTrainerConfig),
    ("Pseudo-views", "pipeline", GuidedPipelineConfig),
    ("Targets: where pseudo-views are wanted", "pipeline.targets", TargetSettings),
    ("Fixer", "pipeline.fixer", FixerSettings),
    ("Photographs", "pipeline.datamanager", SceneDatamanagerConfig),
    ("Splat", "pipeline.model", SplatModelConfig),
]
"""Heading, where the flags hang, the dataclass that defines them."""

HEAD = """\
<!-- Written by docs/reference.py: change the docstrings in the code, then run `make docs`. -->

# Settings

These are the flags of `ns-train difix3d-splatfacto` that this package adds or changes. All other flags are
splatfacto's; `ns-train difix3d-splatfacto --help` lists them all. A flag you give is never overruled. A flag that is
*unset* gets a value that fits the device and `--max-num-iterations`; the [last table](#fitted-values) shows which.
"""

ENVIRONMENT = """\
## Environment variables

A finished training carries its settings in `config.yml`. These variables change how it is shown by `ns-viewer`,
`ns-render` and `ns-eval`, without training again. `ns-train` follows its flags alone.

| variable | values | what it does |
|---|---|---|
| `DIFIX3D_ENHANCE` | `off`, `key`, `rgb` | `key` (the default): a further output `enhanced`. `rgb`: the output \
`rgb` itself is enhanced and the plain render is called `raw`. `off`: neither. |
| `DIFIX3D_WEIGHTS` | a file or folder | weights of the fixer, instead of `--pipeline.fixer.weights` |
| `DIFIX3D_STRENGTH` | a number from 0 to 1 | 0 = the render, 1 = the fixer's picture, instead of \
`--pipeline.fixer.strength` |
"""

FITTED_HEAD = """\
## Fitted values

What unset flags become: by default without CUDA ({cpu:,} steps), by default with CUDA ({cuda:,} steps), and in a
training of 10,000 steps without CUDA. They are the same for plain training (`--pipeline.rounds 0`). The learning rates
of positions and cameras decay over the whole training.

| flag | CPU, {cpu:,} steps | CUDA, {cuda:,} steps | CPU, 10,000 steps |
|---|---|---|---|
"""


def field_texts(settings: type) -> dict[str, tuple[str, str]]:
    """{field: (type as written, docstring below it)} of the fields a dataclass itself defines, in order."""
    body = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0].body  # type: ignore[attr-defined]
    texts = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
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
    configs = [_settled("cpu", None), _settled("cuda", None), _settled("cpu", 10_000)]
    rows = []
    for _, prefix, settings in SECTIONS:
        for name in field_texts(settings):
            values = [getattr(_at(config, prefix), name) for config in configs]
            if getattr(_at(difix3d_splatfacto.config, prefix), name) is None and None not in values:
                rows.append(f"| `{flag(prefix, name)}` | " + " | ".join(f"{value:,}" for value in values) + " |")
    return rows


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    for heading, prefix, settings in SECTIONS:
        rows = [
            f"| `{name}` | {values} | {default} | {text.replace('|', chr(92) + '|')} |"
            for name, values, default, text in flags(prefix, settings)
        ]
        parts.append("\n".join([f"## {heading}", "", COLUMNS, "|---|---|---|---|", *rows]))
    parts.append(ENVIRONMENT)
    head = FITTED_HEAD.format(cpu=CPU_ITERATIONS, cuda=CUDA_ITERATIONS)
    return "\n\n".join([*(part.rstrip() for part in parts), head + "\n".join(fitted_rows())]) + "\n"


def _settled(device: str, steps: int | None) -> Any:
    config = copy.deepcopy(difix3d_splatfacto.config)
    config.machine.device_type = device  # type: ignore[assignment]
    if steps is not None:
        config.max_num_iterations = steps
    with mock.patch("torch.cuda.is_available", return_value=True), mock.patch("difix3d_ns.ns.presets.CONSOLE"):
        settle(config)  # type: ignore[arg-type]
    return config


def _at(config: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        config = getattr(config, name)
    return config


def _values(kind: str) -> str:
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
