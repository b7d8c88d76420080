"""Writes docs/protocols.md: the papers' protocols as their files in configs/protocol have them.

python docs/protocols.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

from difix3d_ns.evaluation.bench.quoted_rows import quoted_sources, quoted_table
from difix3d_ns.evaluation.protocols.protocol import Protocol, shipped_protocols

PAGE = Path(__file__).resolve().parent / "protocols.md"
ORDER = ("nerfbusters", "dl3dv", "mipnerf360", "llff-x8x4", "co3d-fewview", "gso")
"""of the sections; what has other settings of the same data set follows it"""

HEAD = """\
<!-- Written by docs/protocols.py from configs/protocol: change these files, then run `make docs`. -->

# The papers' protocols

`difix3d bench FOLDER --protocol NAME --output DIR` trains and compares on a paper's data set, split, sized and scored
as published, and prints the published rows beside ours. Nothing is downloaded: `FOLDER` is the data set as its authors
offer it, or a single scene of it. **None of them has been run here on the real data**; the readers are tested on small
folders of the same layout.

| protocol | data set | methods |
|---|---|---|
{rows}

- Scenes are written to `DIR/scenes`; pictures that are used as they are become links.
- LPIPS and FID need weights: `--fetch-weights`, or later `difix3d bench --fill lpips fid DIR --protocol NAME`.
- Sizes are the published ones on every device: without CUDA, expect hours for each scene. Steps are its default.
- To begin with less, give a single scene's folder, and `--methods`. Other settings: copy a file of `configs/protocol`
  and give its path.
- Our rows are over the scenes that were given. What keeps them from being comparable is said in each section.
"""


def page() -> str:
    """The whole page as Markdown."""
    protocols = shipped_protocols()
    names = sorted(protocols, key=lambda name: (_rank(name), name))
    rows = [
        f"| [`{name}`](#{name}) | {protocols[name].title} | {', '.join(f'`{m}`' for m in protocols[name].methods)} |"
        for name in names
    ]
    return HEAD.format(rows="\n".join(rows)) + "".join(section(protocols[name]) for name in names)


def section(protocol: Protocol) -> str:
    """The section of a protocol."""
    table = quoted_table(protocol)
    assert table is not None
    name = protocol.name
    parts = [
        f"## {name}",
        f"{protocol.title}.",
        f"```bash\ndifix3d bench FOLDER --protocol {name} --output DIR\n```",
        "```text\n" + "\n".join(protocol.layout) + "\n```",
        "As published:\n\n" + "\n".join(f"- {line}" for line in protocol.published),
        "Not as published, or not known:\n\n" + "\n".join(f"- {line}" for line in protocol.differs),
        "Published rows:",
        table.markdown(),
        "\n".join(f"- {line}" for line in quoted_sources(protocol)),
    ]
    return "\n" + "\n\n".join(parts) + "\n"


def _rank(name: str) -> int:
    first = max((known for known in ORDER if name.startswith(known)), key=len, default="")
    return ORDER.index(first) if first else len(ORDER)


def main() -> None:
    """Write the page, or with --check say whether it is out of date."""
    text = page()
    if "--check" in sys.argv[1:]:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        sys.exit(0 if same else f"{PAGE} is out of date: run `make docs`")
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
