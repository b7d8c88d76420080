"""Networks of systems: made by a recipe, begun with weights that are there, and saved for a prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import write_json, write_tensors
from difix3d_ns.training.prior_recipe import Recipe

Net = TypeVar("Net", bound=nn.Module)


def configured(make: Callable[..., Net], recipe: Recipe, name: str, **known: Any) -> Net:
    """Make a network by the recipe's ``network.net``.

    Args:
        make: its class.
        recipe: with its settings.
        name: of the network, for people.
        known: settings that the recipe does not state.

    Raises:
        UserError: the settings are none of this network.
    """
    try:
        return make(**known, **recipe.network["net"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"recipe: network.net is no configuration of the {name}: {error!r}") from error


def begin_with(net: nn.Module, recipe: Recipe, read: Callable[[str], nn.Module]) -> None:
    """Fill a network with the weights that the recipe starts from, if it names any.

    Args:
        net: as the recipe makes it.
        recipe: which.
        read: the prior's reader.

    Raises:
        UserError: they cannot be read, or are of another network.
    """
    if recipe.start is None:
        return
    try:
        net.load_state_dict(read(recipe.start).state_dict())
    except (OSError, RuntimeError) as error:
        raise UserError(f"--start {recipe.start} does not fit the recipe's network: {error}") from error


def save_half(net: nn.Module, folder: Path, config: Mapping[str, Any], name: str = "weights") -> None:
    """Write ``NAME.safetensors`` (float16) and its JSON.

    Args:
        net: the network.
        folder: where.
        config: content of the JSON.
        name: of both files.
    """
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in net.state_dict().items()}
    write_json(folder / f"{name}.json", config)
    write_tensors(folder / f"{name}.safetensors", tensors)
