"""Writes docs/commands.md: every ``difix3d`` command with its help and its flags, as its parser has them.

python docs/commands.py [--check]
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import tomllib
import warnings
from pathlib import Path

import tyro

from difix3d_ns.cli import COMMANDS

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "commands.md"

HEAD = """\
<!-- Written by docs/commands.py: change the docstrings in difix3d_ns/cli, then run `make docs`. -->

# Commands

`--help` after a command prints the same as this page. `difix3d --version` prints the version.
Flags that take several values take them one after the other: `--seeds 0 1 2`.

Trainings are nerfstudio's own command with one of these methods; [Settings](configuration.md) has their flags.

{methods}

| command | what it does |
|---|---|
{rows}
"""


def page() -> str:
    """The whole page as Markdown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # get_parser, which has no successor
        parsers = {name: tyro.extras.get_parser(command) for name, command in COMMANDS.items()}
    rows = [f"| [`{name}`](#difix3d-{name}) | {_sentence(parser)} |" for name, parser in parsers.items()]
    sections = [section(name, parser) for name, parser in parsers.items()]
    return HEAD.format(methods="\n".join(methods()), rows="\n".join(rows)) + "\n" + "\n\n".join(sections) + "\n"


def methods() -> list[str]:
    """One line per method, in the order in which pyproject.toml announces them to nerfstudio."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entries = [entry.split(":") for entry in project["entry-points"]["nerfstudio.method_configs"].values()]
    found = [getattr(importlib.import_module(module), name) for module, name in entries]
    return [f"- `ns-train {method.config.method_name}`: {method.description}" for method in found]


def section(name: str, parser: argparse.ArgumentParser) -> str:
    """Heading, help, usage and flags of one command."""
    actions = [action for action in parser._actions if action.dest != "help"]
    places = [action for action in actions if not action.option_strings]
    needed = [action for action in actions if action.option_strings and _default(action) is None]
    words = ["difix3d", name, *(_place(action) for action in places)]
    words += [f"{action.option_strings[0]} {_values(action)}" for action in needed]
    text = [f"## difix3d {name}", _plain(parser.description or ""), "```bash\n" + " ".join(words) + "\n```"]
    return "\n\n".join([*text, "\n".join(_line(action) for action in actions)])


def _sentence(parser: argparse.ArgumentParser) -> str:
    return _plain((parser.description or "").partition("\n\n")[0]).partition(". ")[0].rstrip(".").replace("|", "\\|")


def _line(action: argparse.Action) -> str:
    name = f"{action.option_strings[0]} {_values(action)}".rstrip() if action.option_strings else _place(action)
    meaning = re.sub(r" \((?:default: .*|required)\)$", "", _help(action)).rstrip(".")
    for choice in action.choices or ():
        meaning = re.sub(rf"(^|; ){re.escape(choice)}\b", rf"\1`{choice}`", meaning)
    default = _default(action)
    if action.option_strings and default is None:
        return f"- `{name}` (required): {meaning}."
    shown = default and default not in ("None", "False")  # its meaning says what unset does
    return f"- `{name}`: {meaning}." + (f" Default: `{default}`." if shown else "")


def _place(action: argparse.Action) -> str:
    return action.dest.upper() + (" ..." if action.nargs in ("*", "+") else "")


def _values(action: argparse.Action) -> str:
    """Placeholders of a flag's values, without ``None``, which is for flags that are left out."""
    text = re.sub(r"\{None\}\|", "", str(action.metavar or ""))
    text = re.sub(r"\{None,", "{", text)
    if found := re.fullmatch(r"\[(\S+) \[.*\]\]", text):
        return f"{found[1]} ..."
    return text


def _default(action: argparse.Action) -> str | None:
    """The default as help shows it, empty for none of several values; None where there is none."""
    found = re.search(r" \(default: (.*)\)$", _help(action))
    return found[1].strip() if found else None


def _help(action: argparse.Action) -> str:
    return " ".join(str(action.help).replace("%%", "%").split())


def _plain(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def main() -> None:
    """Write the page, or with --check say that it is out of date."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote {PAGE}")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE} is out of date: run `make docs`")


if __name__ == "__main__":
    main()
