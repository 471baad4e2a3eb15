"""The worker image in real pods: as its own user, as any other, with a root that is read-only."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from byok8s.cluster import ClusterInfo
from support.project import kubectl

# What pods import; what would slow each of them down; and whether Python compiles anything.
PROGRAM = r"""
import importlib.util, json, os, subprocess, sys, time
modules = "snakemake.cli, obstore, byok8s.worker.__main__, snakemake_storage_plugin_byok8s"
command = [sys.executable, "-v", "-c", "import " + modules]
began = time.monotonic()
verbose = subprocess.run(command, capture_output=True, text=True)
assert verbose.returncode == 0, verbose.stderr[-2000:]
loaded = [l.split("'")[1] for l in verbose.stderr.splitlines() if l.startswith("# code object")]
open("file-of-the-job", "w").close()
print(json.dumps({
    "uid": os.getuid(),
    "folder": os.getcwd(),
    "home": os.path.expanduser("~"),
    "seconds": time.monotonic() - began,
    "loaded": len(loaded),
    "compiled": [name for name in loaded if not name.endswith(".pyc")],
    "found": [m for m in ("boto3", "kubernetes", "click", "rich") if importlib.util.find_spec(m)],
    "tools": subprocess.run(
        "bash -c 'echo x | gzip | gzip -d; echo x | bzip2 | bzip2 -d; echo x | xz | xz -d' && "
        "ps -e >ps.txt && python --version && test -s /etc/ssl/certs/ca-certificates.crt",
        shell=True, capture_output=True, text=True,
    ).stdout.split(),
    "pythonpath": os.environ.get("PYTHONPATH"),
}))
"""


def pod(name: str, image: str, uid: int, program: str) -> dict[str, Any]:
    """A pod that Pod Security "restricted" admits, with the volumes that a job's pod has."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": uid,
                "runAsGroup": 0 if uid != 65532 else 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "job",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "command": ["python3", "-c", program],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "work", "mountPath": "/work"},
                        {"name": "tmp", "mountPath": "/tmp"},
                    ],
                }
            ],
            "volumes": [{"name": "work", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
        },
    }


def run_pod(cluster: ClusterInfo, folder: Path, uid: int, program: str) -> str:
    """The output of a pod of the worker image that ends well."""
    assert cluster.worker_image is not None
    name = f"worker-image-{uuid.uuid4().hex[:8]}"
    (folder / "pod.json").write_text(json.dumps(pod(name, cluster.worker_image, uid, program)))
    kubectl(cluster, "create", "-f", str(folder / "pod.json"))
    try:
        phase, deadline = "", time.monotonic() + 60
        while phase not in ("Succeeded", "Failed") and time.monotonic() < deadline:
            time.sleep(0.3)
            phase = kubectl(cluster, "get", "pod", name, "-o", "jsonpath={.status.phase}")
        log = kubectl(cluster, "logs", name)
        assert phase == "Succeeded", log
        return log
    finally:
        kubectl(cluster, "delete", "pod", name, "--grace-period=0", "--wait=false")


@pytest.mark.parametrize("uid", [65532, 1234567])
def test_a_pod_of_any_user_has_what_jobs_need_ready_to_run(
    cluster: ClusterInfo, tmp_path: Path, uid: int
) -> None:
    told = json.loads(run_pod(cluster, tmp_path, uid, PROGRAM))

    assert told["uid"] == uid
    assert (told["folder"], told["home"]) == ("/work", "/tmp")
    assert told["compiled"] == [] and told["loaded"] > 400
    assert told["found"] == []  # each would be imported or searched at every start
    assert told["tools"][:3] == ["x", "x", "x"] and told["tools"][3] == "Python"
    assert told["pythonpath"] is None
    assert told["seconds"] < 30  # 0.8 s on an idle machine, 3.5 s when it compiles everything


def test_the_image_runs_the_leaders_snakemake(cluster: ClusterInfo, tmp_path: Path) -> None:
    from importlib.metadata import version

    program = (
        "from importlib.metadata import version; print(version('snakemake'), version('obstore'))"
    )
    told = run_pod(cluster, tmp_path, 65532, program).split()
    assert told == [version("snakemake"), version("obstore")]
