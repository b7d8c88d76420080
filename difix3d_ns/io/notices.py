"""Sentences that a machine's user reads once, not with every command."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def once_per_machine(notify: Callable[[str], Any]) -> Callable[[str], None]:
    """Make a function that passes a sentence on the first time this machine has it to say.

    What has been said is noted in torch's hub folder, beside the weights that such sentences are about; where that
    cannot be written, it is said each time.

    Args:
        notify: takes the sentence.
    """

    def say(sentence: str) -> None:
        name = hashlib.sha256(sentence.encode()).hexdigest()[:16]
        mark = Path(torch.hub.get_dir()) / "notices" / name
        if mark.exists():
            return
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(sentence + "\n", encoding="utf-8")
        except OSError:
            pass
        notify(sentence)

    return say
