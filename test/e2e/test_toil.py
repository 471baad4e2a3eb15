"""Toil's own tests of batch systems, with our plugin for Toil on the real cluster.

Toil is no requirement of byok8s: BYOK8S_TOIL_PYTHON names a Python that has `toil==9.6.0`, pytest
and byok8s.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import pytest
from byok8s.batch import KubeClient
from byok8s.cluster import ClusterInfo
from byok8s.settings import KubeSettings

PYTHON = os.environ.get("BYOK8S_TOIL_PYTHON")
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not PYTHON, reason="BYOK8S_TOIL_PYTHON names no Python with Toil")
def test_toils_own_tests_of_a_batch_system(cluster: ClusterInfo, tmp_path: Path):
    assert PYTHON and cluster.worker_image
    client = KubeClient.load(KubeSettings(context=cluster.context))
    namespace = f"toil-{uuid.uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    client.create("/api/v1/namespaces", {"metadata": {"name": namespace, "labels": labels}})
    view = ["kubectl", "config", "view", "--raw", "--minify", f"--context={cluster.context}"]
    config = tmp_path / "config"
    config.write_text(subprocess.run(view, check=True, capture_output=True, text=True).stdout)
    place = ["config", "set-context", "--current", f"--namespace={namespace}"]
    subprocess.run(["kubectl", f"--kubeconfig={config}", *place], check=True)
    rsync = tmp_path / "bin/rsync"  # their package of tests asks for its version, and for no more
    rsync.parent.mkdir()
    rsync.write_text("#!/bin/sh\necho rsync version 3.2.7\n")
    rsync.chmod(0o755)
    cases = str(ROOT / "test/support/toil_cases.py")
    try:
        done = subprocess.run(
            [PYTHON, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", tmp_path, cases],
            check=False,
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{rsync.parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT / "cli"),
                "KUBECONFIG": str(config),
                "TOIL_APPLIANCE_SELF": cluster.worker_image,
                "TOIL_SKIP_DOCKER": "true",  # of what their package looks for by itself
                "TOIL_SKIP_ONLINE": "true",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        pods = client.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    finally:
        client.delete(f"/api/v1/namespaces/{namespace}")
    assert done.returncode == 0, done.stdout[-8000:]
    assert " passed" in done.stdout
    assert pods == []
