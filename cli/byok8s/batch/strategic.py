"""Kubernetes' strategic merge of one part of a pod into another. Pure."""

from __future__ import annotations

from typing import Any

# x-kubernetes-patch-merge-key of everything in a PodSpec (OpenAPI of Kubernetes 1.35)
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "schedulingGates": "name",
}
# An element says in one of several fields what it is, so that two of them cannot be mixed
_WHOLE = ("env", "volumes")
# Atomic to Kubernetes; but whoever writes one down does not mean to take away another
_APPENDED = ("tolerations",)


def merged(base: Any, patch: Any, field: str = "") -> Any:
    """`base` with `patch` merged in: mappings by key, lists by their merge key; null removes.

    Lists without a merge key are replaced, tolerations added. Neither argument is changed.
    """
    if isinstance(base, dict) and isinstance(patch, dict):
        result = {key: value for key, value in base.items() if patch.get(key, value) is not None}
        for key, value in patch.items():
            if value is not None:
                result[key] = merged(base.get(key), value, key)
        return result
    if isinstance(patch, dict):
        return {key: merged(None, value, key) for key, value in patch.items() if value is not None}
    if isinstance(base, list) and isinstance(patch, list):
        if field in _APPENDED:
            return [*base, *(item for item in patch if item not in base)]
        if field in MERGE_KEYS:
            return _by_key(base, patch, field)
    return patch


def _by_key(base: list[Any], patch: list[Any], field: str) -> list[Any]:
    key = MERGE_KEYS[field]
    result = list(base)
    places = {item.get(key): index for index, item in enumerate(base)}
    for item in patch:
        place = places.get(item.get(key))
        if place is None:
            result.append(merged(None, item))
        else:
            result[place] = merged(None if field in _WHOLE else base[place], item)
    return result
