"""A native cluster's whole life, told as JSON; run by test_native_lifecycle.py.

Runs in a private machine (see the script of that name), where all of this can be done beside a
cluster that others are using.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from byok8s import cluster
from byok8s.cluster.native import cgroups, processes, remnants
from byok8s.cluster.native.layout import BRIDGE, Layout
from byok8s.progress import PlainReporter
from support.project import client_of

NAME = "life"
SETTINGS = """net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables vm.overcommit_memory
    vm.panic_on_oom kernel.panic kernel.panic_on_oops net.ipv4.conf.all.route_localnet"""
PLACES = ("/run", "/var/lib/cni", "/var/lib/kubelet", "/var/lib/containerd", "/var/log")
PLACES += ("/etc/cni", "/opt", "/usr/libexec/kubernetes", "/usr/local/bin")


def snapshot() -> dict[str, list[str]]:
    """What the machine has, by kind."""
    places = [*PLACES, os.environ["XDG_STATE_HOME"], str(Path(os.environ["KUBECONFIG"]).parent)]
    files = [p for place in places for p in [Path(place), *Path(place).rglob("*")] if p.exists()]
    interfaces = json.loads(output("ip", "-json", "address"))
    return {
        "processes": sorted(text(p) for p in Path("/proc").glob("[0-9]*/cmdline") if text(p)),
        "mounts": [x.split()[4] for x in Path("/proc/self/mountinfo").read_text().splitlines()],
        "links": [link["ifname"] for link in interfaces],
        "addresses": [a["local"] for link in interfaces for a in link["addr_info"]],
        "routes": output("ip", "route").splitlines() + output("ip", "-6", "route").splitlines(),
        "network namespaces": output("lsns", "--noheadings", "-t", "net", "-o", "NS").split(),
        "iptables": rules("iptables"),
        "ip6tables": rules("ip6tables"),
        "control groups": sorted(str(p) for p in Path("/sys/fs/cgroup").rglob("*") if p.is_dir()),
        "settings": [f"{k}={setting(k)}" for k in SETTINGS.split()],
        "files": sorted(f"{p} {p.stat().st_mode:o}" for p in files),
        "kubeconfig": Path(os.environ["KUBECONFIG"]).read_text().splitlines(),
    }


def text(cmdline: Path) -> str:
    try:
        words = cmdline.read_bytes().split(b"\0")
    except OSError:  # it ended just now
        return ""
    return " ".join(word.decode(errors="replace") for word in words).strip()


def rules(command: str) -> list[str]:
    lines = output(f"{command}-save").splitlines()
    return [x.rpartition(" [")[0] if x.startswith(":") else x for x in lines if x[0] != "#"]


def setting(key: str) -> str:
    path = Path("/proc/sys", *key.split("."))
    return path.read_text().strip() if path.exists() else "-"


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def kubectl(*arguments: str) -> str:
    return output("kubectl", f"--context=byok8s-{NAME}", *arguments)


def timed(action: Callable[[], Any]) -> float:
    began = time.monotonic()
    action()
    return round(time.monotonic() - began, 1)


def create() -> float:
    return timed(lambda: cluster.create(NAME, "native", PlainReporter(sys.stderr)))


def delete() -> float:
    return timed(lambda: cluster.delete(NAME, None, PlainReporter(sys.stderr)))


def run_pod(name: str, code: str) -> None:
    image = worker_image()
    kubectl("run", name, f"--image={image}", "--restart=Never", "--command", "--",
            "python3", "-c", code)  # fmt: skip


def worker_image() -> str:
    known = cluster.find_by_context(f"byok8s-{NAME}")
    assert known is not None and known.worker_image is not None
    return known.worker_image


def s3() -> Any:
    known = cluster.find_by_context(f"byok8s-{NAME}")
    assert known is not None and known.s3 is not None
    return client_of(known.s3)


def kill_everything() -> int:
    """SIGKILL to every process of the cluster and its containers; returns how many."""
    pids = {p.pid for p in processes.find(Layout.of(NAME).root)} | cgroups.members()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)


def kill_some() -> dict[str, Any]:
    """Kill a part of the components, and see that the rest and the pods are left alone."""
    folder = Layout.of(NAME).root
    before = processes.leaders(folder)
    killed = ("containerd", "etcd", "kubelet", "kube-scheduler", "versitygw")
    for name in killed:
        os.kill(before[name].pid, signal.SIGKILL)
    seconds = create()
    after = processes.leaders(folder)
    restarted = sorted(name for name in after if after[name].pid != before[name].pid)
    count = "jsonpath={.status.containerStatuses[0].restartCount}"
    kubectl("wait", "pod/sleeper", "--for=condition=Ready", "--timeout=30s")
    return {
        "killed": sorted(killed),
        "restarted": restarted,
        "pod restarts": kubectl("get", "pod/sleeper", "-o", count),
        "seconds": seconds,
    }


def forget_as_a_reboot_does() -> None:
    """No mounts, no bridge, no rules, a new boot; /run still holds the old files."""
    layout = Layout.of(NAME)
    time.sleep(0.2)
    remnants.unmount_below([layout.root, layout.run])
    output("ip", "link", "delete", BRIDGE)
    for table in ("nat", "filter", "mangle"):
        output("iptables", "-t", table, "-F")
        output("iptables", "-t", table, "-X")
    (layout.run / "boot").write_text("an earlier boot")
    for number in processes.find(layout.root):
        raise AssertionError(f"still running: {number}")


def put_data() -> None:
    kubectl("create", "configmap", "kept", "--from-literal=key=value")
    s3().put_object(Bucket="byok8s", Key="folder/object", Body=b"content")


def get_data() -> dict[str, str]:
    answer = s3().get_object(Bucket="byok8s", Key="folder/object")
    return {
        "ConfigMap": kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.key}"),
        "object": answer["Body"].read().decode(),
    }


def pod_logs(name: str) -> str:
    kubectl("wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    return kubectl("logs", name)


def main() -> None:
    """Create, use, kill, bring back, delete; kill and delete again; tell what was seen."""
    kubeconfig = Path(os.environ["KUBECONFIG"])
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.write_text(OTHER_KUBECONFIG)
    Path(os.environ["XDG_STATE_HOME"]).mkdir()
    told: dict[str, Any] = {"before": snapshot(), "create": create()}
    put_data()
    run_pod("sleeper", "import time; time.sleep(3600)")
    run_pod("talker", "print('from a pod')")
    told["logs"] = pod_logs("talker")
    told["meanwhile"] = snapshot()
    told["some"] = kill_some()
    told["killed"] = kill_everything()
    told["bring back"] = create()
    told["after kill"] = get_data()
    kill_everything()
    forget_as_a_reboot_does()
    told["after reboot, bring back"] = create()
    told["after reboot"] = get_data()
    run_pod("again", "print('from a pod again')")
    told["logs again"] = pod_logs("again")
    told["delete"] = delete()
    told["after delete"] = snapshot()
    told["second create"] = create()
    kill_everything()
    told["second delete"] = delete()
    told["after delete of the dead"] = snapshot()
    told["delete of nothing"] = delete()
    print(json.dumps(told))


OTHER_KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters:
- name: other
  cluster: {server: "https://192.0.2.1"}
contexts:
- name: other
  context: {cluster: other, user: other}
users:
- name: other
  user: {}
current-context: other
"""

if __name__ == "__main__":
    main()
