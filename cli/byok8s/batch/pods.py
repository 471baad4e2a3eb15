"""What a pod looks like: names, labels and the manifest. Pure functions."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from byok8s.batch.placement import ANYWHERE, Placement, place
from byok8s.batch.strategic import merged

RUN = "byok8s.io/run"
OWNER = "byok8s.io/owner"
RULE = "byok8s.io/rule"
JOB = "byok8s.io/job"
ATTEMPT = "byok8s.io/attempt"
BUNDLE = "byok8s.io/bundle"  # on pods that run several jobs
ID = "byok8s.io/id"  # an annotation: may be longer than a label
OUR_PREFIX = "byok8s.io/"  # of labels and annotations
OUR_LABELS = {"app.kubernetes.io/name": "byok8s", "app.kubernetes.io/managed-by": "byok8s"}
FINGERPRINT = "byok8s.io/fingerprint"  # an annotation: what the pod does
NOTE = "byok8s.io/note"  # an annotation: what its leader wants a later one to know
CONTAINER = "job"
STAGING = "staging"
LOG_CONTAINER = "kubectl.kubernetes.io/default-container"  # an annotation, which kubectl reads too
WORK = "/work"
TMP = "/tmp"  # noqa: S108
SECRET_MOUNT = "/var/run/byok8s"  # noqa: S105 (a path)
UID = 65532  # "nonroot" of the distroless images
LONGEST_NAME = 63
LONGEST_WORD = 128 * 1024  # with a byte at its end: MAX_ARG_STRLEN of execve(2)
DEFAULT_DEADLINE_SECONDS = 7 * 24 * 3600  # so that a pod nobody waits for ends some day


@dataclass(frozen=True)
class RunIdentity:
    """Whose pods these are. `name` is a DNS label of at most 40 characters."""

    name: str
    owner: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", self.name):
            raise ValueError(f"'{self.name}' is not a DNS label of at most 40 characters")

    @property
    def labels(self) -> dict[str, str]:
        return {**OUR_LABELS, RUN: self.name, OWNER: label_value(self.owner)}

    @property
    def selector(self) -> str:
        """The label selector of everything that belongs to the run."""
        return f"{RUN}={self.name}"


@dataclass(frozen=True)
class Staging:
    """A second container, called `staging`, that brings and takes the files of the job's own.

    The pod's end is this container's: it ends last, with the job's result, and succeeds when all
    is done. Both containers see the working folder, and a folder in memory at `handshake`; the
    run's Secret is seen by this one alone. `cpu` is a part of the job's, `memory_mb` is requested
    beside it.
    """

    image: str
    command: tuple[str, ...]
    handshake: str
    env: Mapping[str, str] = field(default_factory=dict)
    cpu: float = 0.05
    memory_mb: int = 128


@dataclass(frozen=True)
class PodRequest:
    """One job: what to run and what it needs.

    `cpu` in cores; `memory_mb` and `disk_mb` in MB (10^6 bytes), None for no request and no
    limit; without `limit_memory` the memory is requested and not limited; `deadline_seconds`
    from the pod's start, None for seven days. `placement` says where it may run and what else
    it gets there. `fingerprint` is a text that is equal for equal work: a restarted leader adopts
    a pod of the same attempt where it is, and by default where all of the request is. `note` is
    kept with the pod, for that leader to read. With `staging` the image may be anybody's: it is
    read-only, but for the working folder, /tmp and /var/tmp.

    Without `volumes` the working folder and /tmp are the image's own, and of the Secret the pod
    gets what `secret_env` names, by variable, instead of files: the kubelet then starts it 0.3 s
    sooner. Neither goes with `staging`, nor with a pod template.
    """

    id: str
    image: str
    command: tuple[str, ...]
    attempt: int = 1
    rule: str = ""
    job: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    cpu: float = 1
    memory_mb: int | None = None
    limit_memory: bool = True
    disk_mb: int | None = None
    deadline_seconds: int | None = None
    placement: Placement = ANYWHERE
    fingerprint: str = ""
    note: str = ""
    staging: Staging | None = None
    bundle: bool = False  # the pod runs several jobs; `id` and `job` are its own
    volumes: bool = True
    secret_env: Mapping[str, str] = field(default_factory=dict)


def problem_of(request: PodRequest) -> str | None:
    """Why a request can be of no pod, where the API server would not say so; None: it may be."""
    words: tuple[object, ...] = (*request.command, *request.env, *request.env.values())
    for word in words:
        if not isinstance(word, str):
            return f"{word!r} is no text, as every word of the command and of the variables must be"
    variables = (f"{name}={value}" for name, value in request.env.items())
    for word in (*request.command, *variables):
        if len(word.encode()) >= LONGEST_WORD:
            start = word[:20]
            return f"'{start}…' is longer than the {LONGEST_WORD} bytes that Linux gives a program"
    if not 0 <= request.cpu < math.inf:
        return f"cpu is {request.cpu}, and must be a number that is not negative"
    return None


def fingerprint(request: PodRequest) -> str:
    """The request's own fingerprint, or one of all its fields."""
    if request.fingerprint:
        return request.fingerprint
    fields = json.dumps(asdict(replace(request, note="")), sort_keys=True, default=str)
    return hashlib.sha256(fields.encode()).hexdigest()[:16]


def label_value(text: str) -> str:
    """`text` as a label value: at most 63 characters, a hash where it was cut or changed much."""
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-_.")
    if len(clean) <= LONGEST_NAME:
        return clean
    return f"{clean[:54].rstrip('-_.')}-{_digest(text)}"


def pod_name(run: str, request: PodRequest) -> str:
    """Deterministic: a repeated create meets its own object."""
    readable = f"{run}-{request.rule or request.job or request.id}".lower()
    tail = f"{_digest(f'{run}/{request.id}')}-{request.attempt}"
    stem = re.sub(r"[^a-z0-9]+", "-", readable)[: LONGEST_NAME - 1 - len(tail)].strip("-")
    return f"{stem}-{tail}"


def pod_labels(run: RunIdentity, request: PodRequest) -> dict[str, str]:
    return {
        **run.labels,
        RULE: label_value(request.rule),
        JOB: label_value(request.job or request.id),
        ATTEMPT: str(request.attempt),
        **({BUNDLE: "true"} if request.bundle else {}),
    }


def log_container(request: PodRequest) -> str:
    """The container whose log is the job's."""
    return STAGING if request.staging else CONTAINER


def manifest(
    run: RunIdentity,
    request: PodRequest,
    *,
    owner: Mapping[str, Any],
    secret: str | None,
    secret_mount: str,
    pull_policy: str,
    grace_seconds: int,
) -> dict[str, Any]:
    """The pod of a request: one that Pod Security "restricted" admits.

    `owner` is the owner reference of the run's ConfigMap, `secret` the name of the Secret that
    is mounted read-only at `secret_mount`, if there is one and the pod has volumes. A pod template
    may have it otherwise, and a placement after that.
    """
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(run.name, request),
            "labels": pod_labels(run, request),
            "annotations": {
                ID: request.id,
                FINGERPRINT: fingerprint(request),
                LOG_CONTAINER: log_container(request),
                **({NOTE: request.note} if request.note else {}),
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            },
            "ownerReferences": [dict(owner)],
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": grace_seconds,
            "activeDeadlineSeconds": (
                DEFAULT_DEADLINE_SECONDS
                if request.deadline_seconds is None
                else request.deadline_seconds
            ),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": UID,
                "runAsGroup": UID,
                "fsGroup": UID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": _containers(request, secret, secret_mount, pull_policy),
            "volumes": _volumes(request, secret),
        },
    }
    if request.placement.template:
        pod = _with_template(pod, request.placement.template)
    containers = pod["spec"]["containers"]
    job = next(container for container in containers if container["name"] == CONTAINER)
    place(pod, job, request.placement)
    return pod


def _with_template(pod: dict[str, Any], template: str) -> dict[str, Any]:
    """The pod with a template merged in; added init containers get our security context."""
    result: dict[str, Any] = merged(pod, json.loads(template))
    ours = pod["spec"]["containers"][0]["securityContext"]
    for container in result["spec"].get("initContainers", ()):
        container["securityContext"] = {**ours, **container.get("securityContext", {})}
    # the template knows of the job's container only, but both have the same working folder
    mounts = {
        container["name"]: {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        for container in result["spec"]["containers"]
    }
    for paths in mounts.values():
        paths[WORK]["name"] = mounts[CONTAINER][WORK]["name"]
    return result


def _containers(
    request: PodRequest, secret: str | None, secret_mount: str, pull_policy: str
) -> list[dict[str, Any]]:
    staging = request.staging
    if staging is None:
        return [_container(request, secret, secret_mount, pull_policy)]
    beside = replace(
        request,
        image=staging.image,
        command=staging.command,
        env=staging.env,
        cpu=staging.cpu,
        memory_mb=staging.memory_mb,
        limit_memory=False,
        disk_mb=None,
    )
    first = _container(beside, secret, secret_mount, pull_policy)
    first["name"] = STAGING
    first["volumeMounts"][1]["name"] = STAGING  # a /tmp of its own
    job = _container(replace(request, cpu=request.cpu - staging.cpu), None, "", pull_policy)
    job["securityContext"]["readOnlyRootFilesystem"] = True
    job["volumeMounts"].append({"name": "tmp", "mountPath": "/var/tmp"})  # noqa: S108
    for container in (first, job):
        container["volumeMounts"].append({"name": "handshake", "mountPath": staging.handshake})
    return [first, job]  # in this order they start: files come while the node pulls the image


def _container(
    request: PodRequest, secret: str | None, secret_mount: str, pull_policy: str
) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = []
    if request.volumes:
        mounts = [{"name": "work", "mountPath": WORK}, {"name": "tmp", "mountPath": TMP}]
        if secret:
            mounts.append({"name": "secret", "mountPath": secret_mount, "readOnly": True})
    env = {"HOME": TMP, **request.env}
    variables: list[dict[str, Any]] = [
        {"name": name, "value": _literal(value)} for name, value in env.items()
    ]
    if secret:
        variables += [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
            for name, key in request.secret_env.items()
        ]
    return {
        "name": CONTAINER,
        "image": request.image,
        "imagePullPolicy": pull_policy,
        "command": [_literal(word) for word in request.command],
        "workingDir": WORK,
        "env": variables,
        "resources": _resources(request),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts,
    }


def _volumes(request: PodRequest, secret: str | None) -> list[dict[str, Any]]:
    if not request.volumes:
        return []
    limit = {} if request.disk_mb is None else {"sizeLimit": f"{request.disk_mb}M"}
    volumes: list[dict[str, Any]] = [
        {"name": "work", "emptyDir": limit},
        {"name": "tmp", "emptyDir": limit},
    ]
    if request.staging:
        volumes += [
            {"name": "handshake", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
            {"name": STAGING, "emptyDir": {}},
        ]
    if secret:
        # readable through fsGroup, by nobody else
        volumes.append({"name": "secret", "secret": {"secretName": secret, "defaultMode": 0o440}})
    return volumes


def _resources(request: PodRequest) -> dict[str, Any]:
    requests = {"cpu": f"{max(1, math.ceil(round(request.cpu * 1000, 6)))}m"}
    limits: dict[str, str] = {}
    if request.memory_mb is not None:
        requests["memory"] = f"{request.memory_mb}M"
        if request.limit_memory:
            limits["memory"] = requests["memory"]
    if request.disk_mb is not None:
        requests["ephemeral-storage"] = limits["ephemeral-storage"] = f"{request.disk_mb}M"
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}


def variable(pod: Mapping[str, Any], name: str) -> str | None:
    """The value of a variable of a pod's job, as it was requested."""
    for container in pod["spec"]["containers"]:
        for entry in container.get("env") or ():
            if container["name"] == CONTAINER and entry["name"] == name:
                return str(entry.get("value", "")).replace("$$", "$")
    return None


def _literal(text: str) -> str:
    """Kept from the kubelet, which replaces $(NAME) and $$ in commands and environment values."""
    return text.replace("$", "$$")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
