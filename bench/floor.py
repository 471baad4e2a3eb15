"""The floor under every executor: bare pods that run `true`, all made at once.

    .venv/bin/python bench/floor.py --pods 51 --cpu 0,0.1,0.95 --dressed

Prints the seconds from the first creation until the API tells that the last pod has ended, for each
request of CPU (0: none), on the cluster that byok8s made (--cluster NAME, default dev). In
compare.py it is a side of its own. Then, with --dressed, of pods that run `true`, too, and have all
that byok8s gives pods of short jobs: variables, one of them from the Secret, a security context,
labels, 0.1 CPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from byok8s.batch import KubeClient, PodRequest, RunIdentity
from byok8s.batch.pods import SECRET_MOUNT, manifest
from byok8s.cluster import find_by_context
from byok8s.cluster.native.layout import Layout
from byok8s.settings import KubeSettings
from quiet import own_namespace, wait_until_quiet, wait_until_swept

AT_ONCE = 8  # creations


def bare_pods(client: KubeClient, namespace: str, image: str, count: int, cpu: float = 0) -> float:
    """Seconds until so many pods have ended."""
    container: dict[str, Any] = {"name": "main", "image": image, "command": ["true"]}
    container["imagePullPolicy"] = "IfNotPresent"
    if cpu:
        container["resources"] = {"requests": {"cpu": f"{cpu:g}"}}
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
    }

    about = {"apiVersion": "v1", "kind": "Pod", "spec": spec}
    pods = [{**about, "metadata": {"name": f"bare-{number}"}} for number in range(count)]
    return _ran(client, namespace, pods)


def dressed_pods(client: KubeClient, namespace: str, image: str, count: int) -> float:
    """Seconds until so many pods have ended that are as byok8s makes them."""
    folder = f"/api/v1/namespaces/{namespace}"
    meta = {"name": "floor"}
    client.create(
        f"{folder}/secrets", {"kind": "Secret", "metadata": meta, "stringData": {"x": "y"}}
    )
    owner = client.create(f"{folder}/configmaps", {"kind": "ConfigMap", "metadata": meta})[
        "metadata"
    ]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "floor", "uid": owner["uid"]}
    env = {"BUCKET": "x" * 160, "JOB": "x" * 900}
    asked = PodRequest(
        "job",
        image,
        ("true",),
        env=env,
        secret_env={"FILES": "x"},
        rule="small",
        cpu=0.1,
        memory_mb=256,
        volumes=False,
    )
    pods = [
        manifest(
            RunIdentity("floor", "bench"),
            replace(asked, id=f"job-{number}", job=f"small-{number}"),
            owner=reference,
            secret="floor",
            secret_mount=SECRET_MOUNT,
            pull_policy="IfNotPresent",
            grace_seconds=5,
        )
        for number in range(count)
    ]
    return _ran(client, namespace, pods)


def _ran(client: KubeClient, namespace: str, pods: list[dict[str, Any]]) -> float:
    path = f"/api/v1/namespaces/{namespace}/pods"
    began = time.monotonic()
    ended: set[str] = set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda pod: client.create(path, pod), pods))
    with client.stream(path, silence=300, watch="true") as lines:
        for line in lines:
            pod = json.loads(line)["object"]
            if pod["status"].get("phase") in ("Succeeded", "Failed"):
                ended.add(pod["metadata"]["name"])
            if len(ended) == len(pods):
                break
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cluster", default="dev")
    parser.add_argument("--pods", type=int, default=51)
    parser.add_argument("--cpu", default="0,0.95", help="requests, separated by commas")
    parser.add_argument("--dressed", action="store_true", help="then also as byok8s makes them")
    options = parser.parse_args()
    info = find_by_context(f"byok8s-{options.cluster}")
    if info is None or not info.worker_image:
        parser.error(f"there is no cluster '{options.cluster}' of byok8s")
    client = KubeClient.load(KubeSettings(context=info.context))
    layout = Layout.of(options.cluster)
    for cpu in map(float, options.cpu.split(",")):
        asked = f"asking for {cpu:g} CPU each" if cpu else "asking for nothing"
        with _namespace(client, layout) as name:
            seconds = bare_pods(client, name, info.worker_image, options.pods, cpu)
        print(f"{options.pods} pods {asked}: {seconds:.1f} s", flush=True)
    if options.dressed:
        with _namespace(client, layout) as name:
            seconds = dressed_pods(client, name, info.worker_image, options.pods)
        print(f"{options.pods} pods as byok8s makes them: {seconds:.1f} s", flush=True)


@contextmanager
def _namespace(client: KubeClient, layout: Layout) -> Iterator[str]:
    """A namespace of its own, on a node that has nothing else to do."""
    wait_until_swept(client, layout)
    wait_until_quiet(client)
    with own_namespace(client) as name:
        yield name


if __name__ == "__main__":
    main()
