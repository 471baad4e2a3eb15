"""The configuration files of the components. YAML readers take JSON, so they are JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from byok8s.cluster.native import cgroups
from byok8s.cluster.native.host import Host
from byok8s.cluster.native.layout import (
    ADDRESS,
    BRIDGE,
    DNS_ADDRESS,
    POD_NETWORK,
    Layout,
)

CLIENTS = ("admin", "controller-manager", "scheduler", "proxy", "kubelet")
_CLIENT_RATE = {"qps": 200, "burst": 400}  # the defaults, 5 to 50 a second, are for many nodes
_SANDBOX_OPEN_FILES = 1_000_000


def render(layout: Layout, host: Host, cni_folder: Path | None, pause: str, resolver: str) -> None:
    """Write every configuration file of the cluster that is not there or that changed."""
    files: dict[str, dict[str, Any]] = {
        "kubelet.json": kubelet(layout, host),
        "scheduler.json": scheduler(layout),
        "proxy.json": proxy(layout),
        **{f"{client}.kubeconfig": kubeconfig(layout, client) for client in CLIENTS},
    }
    for name, content in files.items():
        _write(layout.config / name, json.dumps(content, indent=1))
    _write(layout.config / "containerd.toml", containerd(layout, host, cni_folder, pause))
    _write(layout.config / "resolv.conf", resolver)
    _write(layout.config / "cni" / "10-byok8s.conflist", json.dumps(cni(layout), indent=1))


def _write(path: Path, text: str) -> None:
    """Write a file unless it says so already: kube-proxy ends when its own is written anew."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def kubeconfig(layout: Layout, client: str) -> dict[str, Any]:
    """How a component reaches the API server as itself."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": layout.name,
                "cluster": {
                    "server": layout.server,
                    "certificate-authority": str(layout.pki / "ca.crt"),
                },
            }
        ],
        "users": [
            {
                "name": client,
                "user": {
                    "client-certificate": str(layout.pki / f"{client}.crt"),
                    "client-key": str(layout.pki / f"{client}.key"),
                },
            }
        ],
        "contexts": [{"name": client, "context": {"cluster": layout.name, "user": client}}],
        "current-context": client,
    }


def kubelet(layout: Layout, host: Host) -> dict[str, Any]:
    """The kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(layout.pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(layout.pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{layout.socket}",
        "cgroupDriver": "cgroupfs",  # also with systemd: there may be none, and both work
        "cgroupRoot": f"/{cgroups.NAME}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": -999 if host.may_raise_limits else 0,
        "maxOpenFiles": min(host.open_files, _SANDBOX_OPEN_FILES),
        "resolvConf": str(layout.config / "resolv.conf"),
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        # Small, since the node shares its disk with all else that is on this machine
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "500Mi",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "500Mi",
        },
        "imageGCHighThresholdPercent": 100,  # an imported image could not be pulled again
        "maxPods": 110,  # 253 addresses would allow more; starting 200 at once chokes two cores
        "kubeAPIQPS": _CLIENT_RATE["qps"],
        "kubeAPIBurst": _CLIENT_RATE["burst"],
        "eventRecordQPS": 200,
        "eventBurst": 400,
        "serializeImagePulls": False,
        "podLogsDir": str(layout.logs / "pods"),
        "volumePluginDir": str(layout.root / "volume-plugins"),
        "makeIPTablesUtilChains": False,  # kube-proxy makes those that it needs
    }


def scheduler(layout: Layout) -> dict[str, Any]:
    """The scheduler's configuration."""
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": _client(layout, "scheduler"),
    }


def proxy(layout: Layout) -> dict[str, Any]:
    """kube-proxy's configuration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": _client(layout, "proxy"),
        "hostnameOverride": layout.node,
        "bindAddress": ADDRESS,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clusterCIDR": POD_NETWORK,
        # Zero leaves the machine's connection tracking as it is
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"localhostNodePorts": False},  # which would set route_localnet
        "nodePortAddresses": [POD_NETWORK],
    }


def _client(layout: Layout, client: str) -> dict[str, Any]:
    return {"kubeconfig": str(layout.config / f"{client}.kubeconfig"), **_CLIENT_RATE}


def cni(layout: Layout) -> dict[str, Any]:
    """The pods' network: addresses of one bridge, handed out from a folder of the cluster."""
    return {
        "cniVersion": "0.4.0",
        "name": layout.node,
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isDefaultGateway": True,
                "hairpinMode": True,  # a pod may reach itself by its service
                "ipMasq": False,  # done by one rule of ours instead of several per pod
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": POD_NETWORK, "gateway": ADDRESS}]],
                    "dataDir": str(layout.root / "addresses"),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def containerd(layout: Layout, host: Host, cni_folder: Path | None, pause: str) -> str:
    """containerd's configuration, version 2 of the format: 1.6 and later read it."""

    def flag(value: bool) -> str:
        return "true" if value else "false"

    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "{layout.root / "containerd"}"
state = "{layout.run / "containerd"}"
# opt would make /opt/containerd; the others do not fit this machine or are not needed
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{layout.socket}"

[plugins."io.containerd.nri.v1.nri"]
disable = true

[{cri}]
sandbox_image = "{pause}"
disable_apparmor = {flag(not host.apparmor)}
# Without CAP_SYS_RESOURCE runc may not lower a score, and dies in trying
restrict_oom_score_adj = {flag(not host.may_raise_limits)}
netns_mounts_under_state_dir = true

[{cri}.containerd]
snapshotter = "{"overlayfs" if host.overlay else "native"}"
default_runtime_name = "runc"

[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
Root = "{layout.run / "runc"}"
SystemdCgroup = false

[{cri}.cni]
bin_dir = "{cni_folder}"
conf_dir = "{layout.config / "cni"}"

[{cri}.registry]
config_path = "/etc/containerd/certs.d"
"""
