"""The floor under every executor: bare pods that run `true`, all made at once.

    .venv/bin/python bench/floor.py --pods 51 --cpu 0,0.1,0.95

Prints the seconds from the first creation until the API tells that the last pod has ended, for each
request of CPU (0: none), on the cluster that byok8s made (--cluster NAME, default dev). In
compare.py it is a side of its own.
"""

from __future__ import annotations

import argparse
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from byok8s.batch import KubeClient
from byok8s.cluster import find_by_context
from byok8s.settings import KubeSettings

AT_ONCE = 8  # creations


def bare_pods(client: KubeClient, namespace: str, image: str, count: int, cpu: float = 0) -> float:
    """Seconds until so many pods have ended."""
    path = f"/api/v1/namespaces/{namespace}/pods"
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

    def make(number: int) -> None:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"bare-{number}"}}
        client.create(path, {**pod, "spec": spec})

    began = time.monotonic()
    ended: set[str] = set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(make, range(count)))
    with client.stream(path, silence=300, watch="true") as lines:
        for line in lines:
            pod = json.loads(line)["object"]
            if pod["status"].get("phase") in ("Succeeded", "Failed"):
                ended.add(pod["metadata"]["name"])
            if len(ended) == count:
                break
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cluster", default="dev")
    parser.add_argument("--pods", type=int, default=51)
    parser.add_argument("--cpu", default="0,0.95", help="requests, separated by commas")
    options = parser.parse_args()
    info = find_by_context(f"byok8s-{options.cluster}")
    if info is None or not info.worker_image:
        parser.error(f"there is no cluster '{options.cluster}' of byok8s")
    client = KubeClient.load(KubeSettings(context=info.context))
    for cpu in map(float, options.cpu.split(",")):
        name = f"bench-{uuid.uuid4().hex[:8]}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        client.create("/api/v1/namespaces", body)
        try:
            seconds = bare_pods(client, name, info.worker_image, options.pods, cpu)
        finally:
            client.delete(f"/api/v1/namespaces/{name}")
        asked = f"asking for {cpu:g} CPU each" if cpu else "asking for nothing"
        print(f"{options.pods} pods {asked}: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
