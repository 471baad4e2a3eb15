"""The options of `byok8s run` that say where pods run, and what they get there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from byok8s.settings import PlacementSettings

Function = Callable[..., Any]


def _option(name: str, metavar: str, text: str, **more: Any) -> Callable[[Function], Function]:
    """An option with a variable of its own: BYOK8S_ and its name."""
    variable = "BYOK8S_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, metavar=metavar, help=text, envvar=variable, show_envvar=True, **more)


_OPTIONS = (
    _option(
        "--spot",
        "[require|prefer|never]",
        "Machines that the cloud may take back at any time. Default: wherever there is room.",
    ),
    _option(
        "--node-selector",
        "LABELS",
        "Only nodes with these labels: disk=ssd, 'zone in (a,b)', disk!=hdd, gpu or !gpu, with "
        "commas between; may be repeated.",
        multiple=True,
    ),
    _option(
        "--node-preference",
        "LABELS",
        "Nodes with these labels if possible; disk=ssd:50 for a weight of 1 to 100.",
        multiple=True,
    ),
    _option(
        "--toleration",
        "K[=V][:EFFECT]",
        "Also nodes with this taint; may be repeated.",
        multiple=True,
    ),
    _option("--priority-class", "NAME", "The pods' PriorityClass."),
    _option("--queue", "NAME", "The LocalQueue of Kueue that admits the pods."),
    _option("--runtime-class", "NAME", "The pods' RuntimeClass, such as gvisor or nvidia."),
    _option("--service-account", "NAME", "The pods' ServiceAccount, as for a cloud's IAM role."),
    _option(
        "--image-pull-secret",
        "NAME",
        "A Secret with the login to the image's registry; may be repeated.",
        multiple=True,
    ),
    _option(
        "--volume",
        "KIND:SOURCE:PATH",
        "pvc:CLAIM:/PATH[:ro] or ephemeral:SIZE[@STORAGECLASS]:/PATH; may be repeated.",
        multiple=True,
    ),
    _option(
        "--pod-template",
        "FILE",
        "A Pod or its spec, in YAML or JSON, that is merged into every pod.",
        type=click.Path(path_type=Path),
    ),
    _option(
        "--owner",
        "NAME",
        "Whose pods these are, in the label byok8s.io/owner. Default: the user's name.",
    ),
    click.option(
        "--allow-privileged",
        is_flag=True,
        help="Let templates and volumes go below Pod Security 'restricted': root, host folders.",
    ),
)


# What click calls their values: `queue` is another thing to Snakefiles, and so to settings
_NAMES = {"kueue_queue": "queue"}
PLACING = tuple(_NAMES.get(f.name, f.name) for f in fields(PlacementSettings))


def placement_options(function: Function) -> Function:
    """A decorator with all of them."""
    for decorate in reversed(_OPTIONS):
        function = decorate(function)
    return function


def placement_settings(values: Mapping[str, Any]) -> PlacementSettings:
    """From the options' values; an empty one, as from an unset variable, counts as not given."""
    kept: dict[str, Any] = {
        field.name: value
        for field, told in zip(fields(PlacementSettings), map(values.get, PLACING), strict=True)
        if (value := tuple(filter(None, told)) if isinstance(told, tuple) else told)
        and value != Path("")
    }
    return PlacementSettings(**kept)
