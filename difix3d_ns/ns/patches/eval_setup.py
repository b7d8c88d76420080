"""Finished trainings as nerfstudio's other commands read them: from any folder, with words for what is missing."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from difix3d_ns.errors import UserError
from difix3d_ns.io.checkpoints import checkpoint_steps
from difix3d_ns.ns.command_requests import check_request, complete_names
from difix3d_ns.ns.config_paths import find_again

_MODULE = "nerfstudio.utils.eval_utils"


class _EvalUtils(ModuleType):
    """nerfstudio's module; what others import from it is wrapped, whenever it is defined."""

    @property
    def eval_setup(self) -> Callable[..., Any]:
        try:
            return _found_again(self.__dict__["eval_setup"])
        except KeyError:
            raise AttributeError("eval_setup") from None

    @eval_setup.setter
    def eval_setup(self, value: Callable[..., Any]) -> None:
        self.__dict__["eval_setup"] = value


def find_trainings_again() -> None:
    """Let trainings of ours be found by ns-eval, ns-render, ns-export and ns-viewer wherever they are.

    Call it where the methods' settings are imported: these commands import a module that asks for all methods before it
    defines ``eval_setup``, which therefore is not there yet. Where the module was not imported, nothing is done.
    """
    if (module := sys.modules.get(_MODULE)) is not None:
        module.__class__ = _EvalUtils


def _found_again(eval_setup: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(eval_setup)
    def wrapped(config_path: Path, *args: Any, update_config_callback: Any = None, **kwargs: Any) -> Any:
        if not config_path.is_file():
            raise UserError(
                f"there is no {config_path}; give the config.yml of a training: outputs/SCENE/METHOD/TIME/config.yml "
                "(one that was refused, or is still being set up, has none)"
            )

        command = sys._getframe(1).f_locals.get("self")  # nerfstudio's commands are objects whose ``main`` calls this

        def with_paths(config: Any) -> Any:
            if hasattr(config, "write"):  # ours
                check_request(command, getattr(config.pipeline, "source", None))
                find_again(config, config_path)
                check_checkpoints(config, config_path.parent)
            return update_config_callback(config) if update_config_callback is not None else config

        loaded = eval_setup(config_path, *args, update_config_callback=with_paths, **kwargs)
        outputs = getattr(loaded[1].model, "output_names", None)
        if outputs is not None:  # ours
            complete_names(command, outputs)
        return loaded

    return wrapped


def check_checkpoints(config: Any, folder: Path) -> None:
    """Raise a UserError if a training has no checkpoint.

    Args:
        config: the training's, with paths that are right.
        folder: the training's.
    """
    steps = checkpoint_steps(config.get_checkpoint_dir())
    if not steps:
        raise UserError(
            f"{folder} has no checkpoint: the training ended before its first was saved, or has not come to it; train "
            "again, with --steps-per-save N for an earlier one"
        )
