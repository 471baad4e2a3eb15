"""Pod templates: what a person may add to the pods of a run. Pure.

A template is a Pod, a PodTemplate, the part of one with `metadata` and `spec`, or a bare `spec`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from byok8s.batch.pods import CONTAINER, OUR_LABELS, OUR_PREFIX, SECRET_MOUNT, STAGING, TMP, WORK
from byok8s.batch.strategic import MERGE_KEYS
from byok8s.exceptions import SettingsError

_KINDS = ("Pod", "PodTemplate", "PodTemplateSpec")
_VOLUMES = ("work", "tmp", "secret", "handshake", STAGING)
# Fields of the spec and of the container `job`, with what to do instead
_SPEC = {
    "restartPolicy": "a job that failed is tried again in a new pod (--retries)",
    "activeDeadlineSeconds": "a rule has its limit in `resources: runtime=`",
    "nodeName": "it would pass by the scheduler, so use --node-selector",
    "ephemeralContainers": "Kubernetes takes them in running pods only",
    "serviceAccount": "its name is serviceAccountName",
}
_JOB = {
    "command": "what the pod runs is the rule's",
    "args": "what the pod runs is the rule's",
    "image": "use --image",
    "workingDir": f"jobs run in {WORK}",
    "terminationMessagePath": "results travel there",
    "terminationMessagePolicy": "results travel there",
}
_AMOUNTS = {
    "requests": {"cpu": "threads", "memory": "mem_mb", "ephemeral-storage": "disk_mb"},
    "limits": {"memory": "mem_mb", "ephemeral-storage": "disk_mb"},
}
# Mappings of a person's own keys, which may be called as a field is
_PLAIN = ("labels", "annotations", "nodeSelector", "matchLabels", "requests", "limits")
# Volumes that are the pod's own
_PRIVATE = ("emptyDir", "ephemeral")


def read_template(content: Any, name: str) -> str:
    """A template as JSON, from the content of the file `name`.

    Raises SettingsError with one sentence for each thing that cannot be set.
    """
    template = _parts(content, name)
    problems = list(dict.fromkeys(_problems(template)))
    if problems:
        raise SettingsError("\n".join(f"'{name}': {problem}." for problem in problems))
    return json.dumps(template, sort_keys=True)


def _parts(content: Any, name: str) -> dict[str, Any]:
    """The template's metadata and spec."""
    if not isinstance(content, dict):
        raise SettingsError(f"'{name}' must be a mapping: a Pod, a PodTemplate or a Pod's spec.")
    kind = content.get("kind", "Pod")
    if kind not in _KINDS:
        raise SettingsError(
            f"'{name}' holds a {kind}; it must be a Pod, a PodTemplate or a Pod's spec."
        )
    found = content.get("template", {}) if kind == "PodTemplate" else content
    if kind != "PodTemplate" and not {"kind", "metadata", "spec"} & found.keys():
        found = {"spec": found}
    unknown = found.keys() - {"apiVersion", "kind", "metadata", "spec"} if found else set()
    if not isinstance(found, dict) or unknown:
        odd = ", ".join(sorted(unknown)) or "template"
        raise SettingsError(f"'{name}': {odd} may not be set; only metadata and spec count.")
    return {part: found[part] for part in ("metadata", "spec") if found.get(part) is not None}


def _problems(template: Mapping[str, Any]) -> Iterator[str]:
    malformed = list(_malformed(template))
    if malformed:  # what follows relies on the form
        yield from malformed
        return
    metadata, spec = template.get("metadata", {}), template.get("spec", {})
    yield from _of_metadata(metadata)
    for field, instead in _SPEC.items():
        if field in spec:
            yield f"spec.{field} may not be set: {instead}"
    for volume in spec.get("volumes") or ():
        if volume["name"] in _VOLUMES:
            yield (
                f"the volume '{volume['name']}' is byok8s's own: name yours otherwise, and mount "
                f"it at {WORK} or {TMP} to have it there"
            )
    for container in spec.get("containers") or ():
        if container["name"] != CONTAINER:
            yield (
                f"the container '{container['name']}' may not be added, since a job would not end "
                f"before it: only '{CONTAINER}' is there; a sidecar is an init container with "
                "restartPolicy Always"
            )
        else:
            yield from _of_job(container)
    for container in spec.get("initContainers") or ():
        if container["name"] in (CONTAINER, STAGING):
            yield f"an init container may not be called '{container['name']}', as one of byok8s's"
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        yield from _of_mounts(container, spec)


def _malformed(value: Any, path: str = "", field: str = "") -> Iterator[str]:
    """Mappings and lists that the merge could not walk through."""
    mapping = path in ("metadata", "spec") or (field in _PLAIN and value is not None)
    if mapping and not isinstance(value, dict):
        yield f"{path} must be a mapping"
    if field in _PLAIN:
        return
    if field in MERGE_KEYS and value is not None:
        key = MERGE_KEYS[field]
        if not isinstance(value, list):
            yield f"{path} must be a list"
        elif not all(isinstance(item, dict) and key in item for item in value):
            yield f"each of {path} must be a mapping with the key {key}"
    if isinstance(value, dict):
        for key, item in value.items():
            if key.startswith("$"):
                yield f"{path}.{key} is a directive of kubectl patch: null removes a field instead"
            else:
                yield from _malformed(item, f"{path}.{key}".lstrip("."), key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _malformed(item, f"{path}[{index}]")


def _of_metadata(metadata: Mapping[str, Any]) -> Iterator[str]:
    for field in metadata:
        if field not in ("labels", "annotations"):
            yield f"metadata.{field} may not be set: only labels and annotations can be"
    for kind in ("labels", "annotations"):
        for key in metadata.get(kind) or {}:
            if key in OUR_LABELS or key.startswith(OUR_PREFIX):
                yield f"metadata.{kind} may not have {key}: byok8s finds its pods by it"


def _of_job(container: Mapping[str, Any]) -> Iterator[str]:
    path = f"spec.containers '{CONTAINER}'"
    for field, instead in _JOB.items():
        if field in container:
            yield f"{path}: {field} may not be set: {instead}"
    for variable in container.get("env") or ():
        if str(variable["name"]).startswith("BYOK8S_"):
            yield f"{path}: the variable {variable['name']} is byok8s's own"
    resources = container.get("resources") or {}
    for kind, amounts in _AMOUNTS.items():
        for name, resource in amounts.items():
            if name in (resources.get(kind) or {}):
                yield (
                    f"{path}: resources.{kind}.{name} may not be set: a rule has it in `{resource}`"
                )


def _of_mounts(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in spec.get("volumes") or ()}
    for mount in container.get("volumeMounts") or ():
        path = str(mount["mountPath"]).rstrip("/")
        if path == SECRET_MOUNT or path.startswith(f"{SECRET_MOUNT}/"):
            yield f"nothing may be mounted at {path}, where the run's keys are"
        volume = volumes.get(mount.get("name"))
        if path in (WORK, TMP) and volume and not any(kind in volume for kind in _PRIVATE):
            yield (
                f"the volume '{volume['name']}' may not be mounted at {path}, since jobs would "
                "write over each other's files: only emptyDir and ephemeral volumes can be there"
            )
