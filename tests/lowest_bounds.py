"""Lower bounds of ``pyproject.toml`` as constraints for pip, to try the oldest packages that the package asks for.

``python tests/lowest_bounds.py > lowest.txt; python -m pip install --constraint lowest.txt .``
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest_bounds(project: Path = PROJECT) -> list[str]:
    """Return a pin for each dependency with a lower bound, extras included, in the order of the file."""
    metadata = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    extras = metadata["optional-dependencies"].values()
    requirements = [*metadata["dependencies"], *(each for extra in extras for each in extra)]
    found = (re.match(r"([\w.-]+)(?:\[[^]]*\])?[><=~,.\w\s]*?[>=]=([\w.]+)", each) for each in requirements)
    return list(dict.fromkeys(f"{each[1]}=={each[2]}" for each in found if each))


if __name__ == "__main__":
    print("\n".join(lowest_bounds()))
