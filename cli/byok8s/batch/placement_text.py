"""Placements in the words of a person: command-line options and Snakemake resources. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from byok8s.batch.placement import (
    GPU_RESOURCES,
    INSTANCE_TYPE,
    NodeLabel,
    Placement,
    Spot,
    Toleration,
    Volume,
)
from byok8s.batch.pods import SECRET_MOUNT, TMP, WORK
from byok8s.exceptions import SettingsError

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_SUBDOMAIN = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?"
_KEY = rf"(?:{_SUBDOMAIN}/)?{_NAME}"
_VALUE = rf"(?:{_NAME})?"
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s+\(([^()]*)\)")
_EQUAL = re.compile(rf"({_KEY})\s*(=|==|!=)\s*({_VALUE})")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_TOLERATION = re.compile(rf"({_KEY})(?:=({_VALUE}))?(?::(\w+))?")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_VOLUME = re.compile(r"(pvc|ephemeral|host):([^:]+):(/[^/:][^:]*?)/*(?::(ro))?")
_SIZE = re.compile(rf"(\d+(?:\.\d+)?(?:[kMGTPE]i?)?)(?:@({_SUBDOMAIN}))?")
_COMMA = re.compile(r",(?![^(]*\))")  # but not within parentheses


def override(base: Placement, wishes: Mapping[str, Any], called: Callable[[str], str]) -> Placement:
    """`base` with what the wishes say, by the names in NAMES.

    A name, a number or a word replaces the one before; of a list, what concerns the same label
    does, the rest is added. An empty text takes away what was there. `called` is what a name is
    called in an error. Raises SettingsError.
    """
    placement = base
    for name, value in wishes.items():
        text = str(value).strip()
        try:
            placement = _READERS[name](placement, text)
        except ValueError as error:
            raise SettingsError(f"{called(name)} is '{text}', but must be {error}.") from error
    if not placement.privileged and any(volume.kind == "host" for volume in placement.volumes):
        raise SettingsError(
            f"{called('volume')} mounts a folder of the node, which Pod Security 'restricted' "
            "forbids; use a claim, or allow it with --allow-privileged."
        )
    return placement


Expressions = tuple[dict[str, str], list[NodeLabel], list[NodeLabel]]


def _items(text: str) -> list[str]:
    return [item.strip() for item in _COMMA.split(text) if item.strip()]


def _expressions(text: str) -> Expressions:
    """Labels that must be equal, must be one of several, and must not be."""
    form = "labels such as disk=ssd, 'zone in (a,b)', disk!=hdd, gpu or !gpu, with commas between"
    equal: dict[str, str] = {}
    required: list[NodeLabel] = []
    prohibited: list[NodeLabel] = []
    for item in _items(text):
        if found := _SET.fullmatch(item):
            values = tuple(value.strip() for value in found[3].split(","))
            if not all(re.fullmatch(_NAME, value) for value in values):
                raise ValueError(form)
            (required if found[2] == "in" else prohibited).append(NodeLabel(found[1], values))
        elif found := _EQUAL.fullmatch(item):
            if found[2] == "!=":
                prohibited.append(NodeLabel(found[1], (found[3],)))
            else:
                equal[found[1]] = found[3]
        elif found := _EXISTS.fullmatch(item):
            (prohibited if found[1] else required).append(NodeLabel(found[2]))
        else:
            raise ValueError(form)
    keys = [*equal, *(label.key for label in (*required, *prohibited))]
    if len(set(keys)) < len(_items(text)):
        raise ValueError("labels of which none is named twice")
    return equal, required, prohibited


def _node_selector(base: Placement, text: str) -> Placement:
    if not text:
        return replace(base, node_selector=(), required=(), prohibited=())
    equal, required, prohibited = _expressions(text)
    told = {*equal, *(label.key for label in (*required, *prohibited))}

    def kept(labels: tuple[NodeLabel, ...]) -> tuple[NodeLabel, ...]:
        return tuple(label for label in labels if label.key not in told)

    selector = {key: value for key, value in base.node_selector if key not in told}
    return replace(
        base,
        node_selector=tuple((selector | equal).items()),
        required=(*kept(base.required), *required),
        prohibited=(*kept(base.prohibited), *prohibited),
    )


def _node_preference(base: Placement, text: str) -> Placement:
    labels = []
    for item in _items(text):
        found = re.fullmatch(r"(.*?)(?::(\d{1,9}))?", item)
        assert found
        weight = int(found[2] or 1)
        equal, required, prohibited = _expressions(found[1])
        if prohibited or not 1 <= weight <= 100:
            raise ValueError("labels such as disk=ssd or disk=ssd:50, with a weight of 1 to 100")
        labels += [NodeLabel(key, (value,), weight) for key, value in equal.items()]
        labels += [replace(label, weight=weight) for label in required]
    told = {label.key for label in labels}
    kept = [label for label in base.preferred if text and label.key not in told]
    return replace(base, preferred=(*kept, *labels))


def _toleration(base: Placement, text: str) -> Placement:
    tolerations = []
    for item in _items(text):
        found = _TOLERATION.fullmatch(item)
        if not found or (found[3] and found[3] not in _EFFECTS):
            raise ValueError(
                "taints as KEY[=VALUE][:EFFECT], where EFFECT is NoSchedule, PreferNoSchedule or "
                "NoExecute"
            )
        tolerations.append(Toleration(found[1], found[2], found[3]))
    kept = [each for each in base.tolerations if text and each not in tolerations]
    return replace(base, tolerations=(*kept, *tolerations))


def _spot(base: Placement, text: str) -> Placement:
    if text and text not in list(Spot):
        raise ValueError("require, prefer or never")
    return replace(base, spot=Spot(text) if text else None)


def _gpu(base: Placement, text: str) -> Placement:
    if not re.fullmatch(r"\d{0,4}", text, re.ASCII):
        raise ValueError("a number of GPUs")
    return replace(base, gpus=int(text or 0))


def _gpu_manufacturer(base: Placement, text: str) -> Placement:
    maker = text.lower() or Placement.gpu_manufacturer
    if maker not in GPU_RESOURCES:
        raise ValueError(" or ".join(GPU_RESOURCES))
    return replace(base, gpu_manufacturer=maker)


def _gpu_model(base: Placement, text: str) -> Placement:
    if not re.fullmatch(_VALUE, text):
        raise ValueError("a model as a label of the nodes says it, such as nvidia-tesla-t4")
    return replace(base, gpu_model=text or None)


def _machine_type(base: Placement, text: str) -> Placement:
    if not re.fullmatch(_VALUE, text):
        raise ValueError("a cloud's type of machine, such as n2-standard-8")
    kept = {key: value for key, value in base.node_selector if key != INSTANCE_TYPE}
    return replace(
        base, node_selector=tuple((kept | ({INSTANCE_TYPE: text} if text else {})).items())
    )


def _named(field: str, what: str) -> Callable[[Placement, str], Placement]:
    def read(base: Placement, text: str) -> Placement:
        if text and not re.fullmatch(_SUBDOMAIN, text):
            raise ValueError(f"the name of {what}: lower-case letters, digits, hyphens, dots")
        return replace(base, **{field: text or None})  # type: ignore[arg-type]

    return read


def _image_pull_secret(base: Placement, text: str) -> Placement:
    names = _items(text)
    if not all(re.fullmatch(_SUBDOMAIN, name) for name in names):
        raise ValueError("names of Secrets: lower-case letters, digits, hyphens, dots")
    kept = [name for name in base.pull_secrets if text and name not in names]
    return replace(base, pull_secrets=(*kept, *names))


def _volume(base: Placement, text: str) -> Placement:
    volumes = [_one_volume(item) for item in _items(text)]
    paths = {volume.path for volume in volumes}
    if len(paths) < len(volumes):
        raise ValueError("volumes of which no two have the same path")
    kept = [volume for volume in base.volumes if text and volume.path not in paths]
    return replace(base, volumes=(*kept, *volumes))


def _one_volume(text: str) -> Volume:
    found = _VOLUME.fullmatch(text)
    if not found:
        raise ValueError(
            "volumes as pvc:CLAIM:/PATH[:ro], ephemeral:SIZE[@STORAGECLASS]:/PATH or "
            "host:/FOLDER:/PATH[:ro]"
        )
    kind, source, path, read_only = found.groups()
    if path == SECRET_MOUNT or path.startswith(f"{SECRET_MOUNT}/"):
        raise ValueError(f"a volume at another path than {SECRET_MOUNT}, which is byok8s's own")
    if kind == "ephemeral":
        size = _SIZE.fullmatch(source)
        if not size or read_only:
            raise ValueError("an ephemeral volume as ephemeral:100Gi:/PATH, to be written to")
        return Volume("ephemeral", size[1], path, storage_class=size[2])
    if path in (WORK, TMP):
        raise ValueError(
            f"a volume at another path, since jobs would write over each other's files in {path}; "
            "only an ephemeral volume can be there"
        )
    if not re.fullmatch(_SUBDOMAIN if kind == "pvc" else r"/.*", source):
        raise ValueError("pvc:CLAIM:/PATH with a claim's name, or host:/FOLDER:/PATH")
    return Volume("pvc" if kind == "pvc" else "host", source, path, bool(read_only))


_READERS: dict[str, Callable[[Placement, str], Placement]] = {
    "spot": _spot,
    "node_selector": _node_selector,
    "node_preference": _node_preference,
    "machine_type": _machine_type,
    "toleration": _toleration,
    "gpu": _gpu,
    "gpu_manufacturer": _gpu_manufacturer,
    "gpu_model": _gpu_model,
    "priority_class": _named("priority_class", "a PriorityClass"),
    "kueue_queue": _named("queue", "a LocalQueue of Kueue"),
    "runtime_class": _named("runtime_class", "a RuntimeClass"),
    "service_account": _named("service_account", "a ServiceAccount"),
    "image_pull_secret": _image_pull_secret,
    "volume": _volume,
}
NAMES = tuple(_READERS)
