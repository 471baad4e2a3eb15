"""The components of the cluster: their command lines, their order, their ports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from byok8s.cluster.native.binaries import KUBERNETES, S3_SERVER
from byok8s.cluster.native.layout import (
    ADDRESS,
    API_PORT,
    ETCD_PORT,
    S3_PORT,
    SERVICE_NETWORK,
    Layout,
)
from byok8s.cluster.native.processes import PATH, Daemon
from byok8s.cluster.store import S3Server

# In the order of their start: the API server and what needs none, then the clients of it
SERVERS = ("etcd", "kube-apiserver", "versitygw", "containerd")
CLIENTS = ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
NAMES = SERVERS + CLIENTS
# What is waited for, and whose log says most about why it does not come
BEHIND = {
    "API server": "kube-apiserver",
    "S3 server": "versitygw",
    "node": "kubelet",
    "cluster DNS": "kubelet",
}
PORTS: Mapping[str, tuple[str, int]] = {
    "etcd": ("127.0.0.1", ETCD_PORT),
    "kube-apiserver": (ADDRESS, API_PORT),
    "versitygw": (ADDRESS, S3_PORT),
    "kube-controller-manager": ("127.0.0.1", 10257),
    "kube-scheduler": ("127.0.0.1", 10259),
    "kube-proxy": ("127.0.0.1", 10256),
    "kubelet": (ADDRESS, 10250),
}
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def daemons(layout: Layout, s3: S3Server, *, bridge_filtered: bool) -> list[Daemon]:
    """All components in the order of their start."""
    proxy_flags = () if bridge_filtered else ("--masquerade-all",)
    config = layout.config
    return [
        _node(layout, "etcd", _etcd(layout)),
        _node(layout, "kube-apiserver", _api_server(layout)),
        _s3_server(layout, s3),
        _containerd(layout),
        _node(layout, "kube-controller-manager", _controller_manager(layout)),
        _node(
            layout,
            "kube-scheduler",
            [f"--config={config / 'scheduler.json'}", "--bind-address=127.0.0.1"],
            config / "scheduler.json",
        ),
        _node(
            layout,
            "kube-proxy",
            [f"--config={config / 'proxy.json'}", *proxy_flags],
            config / "proxy.json",
        ),
        _kubelet(layout),
    ]


def _node(layout: Layout, name: str, flags: list[str], *files: Path) -> Daemon:
    command = [str(KUBERNETES.path), name, *flags]
    return Daemon(name, command, layout.log(name), files=(layout.pki / "ca.crt", *files))


def _etcd(layout: Layout) -> list[str]:
    pki = layout.pki
    peer_url = f"https://127.0.0.1:{ETCD_PORT + 1}"
    return [
        f"--name={layout.node}",
        f"--data-dir={layout.root / 'etcd'}",
        f"--listen-client-urls=https://127.0.0.1:{ETCD_PORT}",
        f"--advertise-client-urls=https://127.0.0.1:{ETCD_PORT}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster={layout.node}={peer_url}",
        "--client-cert-auth",
        f"--trusted-ca-file={pki / 'etcd-ca.crt'}",
        f"--cert-file={pki / 'etcd.crt'}",
        f"--key-file={pki / 'etcd.key'}",
        "--peer-client-cert-auth",
        f"--peer-trusted-ca-file={pki / 'etcd-ca.crt'}",
        f"--peer-cert-file={pki / 'etcd.crt'}",
        f"--peer-key-file={pki / 'etcd.key'}",
        "--unsafe-no-fsync",  # only a crash of the whole machine could lose the last writes
        "--log-level=warn",
    ]


def _api_server(layout: Layout) -> list[str]:
    pki = layout.pki
    return [
        f"--bind-address={ADDRESS}",
        f"--advertise-address={ADDRESS}",
        f"--secure-port={API_PORT}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--etcd-servers=https://127.0.0.1:{ETCD_PORT}",
        f"--etcd-cafile={pki / 'etcd-ca.crt'}",
        f"--etcd-certfile={pki / 'apiserver-etcd-client.crt'}",
        f"--etcd-keyfile={pki / 'apiserver-etcd-client.key'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
        # Else logs and exec look the node's name up in DNS
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki / 'front-proxy-client.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy-client.key'}",
        "--delete-collection-workers=4",
    ]


def _controller_manager(layout: Layout) -> list[str]:
    pki = layout.pki
    kubeconfig = layout.config / "controller-manager.kubeconfig"
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        # By default in /usr/libexec, where it would be made
        f"--flex-volume-plugin-dir={layout.root / 'volume-plugins'}",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _kubelet(layout: Layout) -> Daemon:
    config = layout.config
    flags = [
        f"--config={config / 'kubelet.json'}",
        f"--kubeconfig={config / 'kubelet.kubeconfig'}",
        f"--hostname-override={layout.node}",
        f"--node-ip={ADDRESS}",
        f"--root-dir={layout.root / 'kubelet'}",
        f"--cert-dir={layout.root / 'kubelet' / 'pki'}",
    ]
    return _node(layout, "kubelet", flags, config / "kubelet.json", config / "resolv.conf")


def _containerd(layout: Layout) -> Daemon:
    config = layout.config / "containerd.toml"
    # containerd pulls the images, so a proxy that the user's shell needs is needed by it
    proxies = {v: os.environ[v] for v in _PROXY_VARIABLES if v in os.environ}
    return Daemon(
        "containerd",
        ["containerd", "--config", str(config), "--log-level", "warn"],
        layout.log("containerd"),
        env={"PATH": PATH, **proxies},
        files=(config,),
    )


def _s3_server(layout: Layout, s3: S3Server) -> Daemon:
    return Daemon(
        "versitygw",
        [
            str(S3_SERVER.path),
            "--port",
            f"{ADDRESS}:{S3_PORT}",
            "--region",
            s3.region,
            "--quiet",
            "--keep-alive",
            "posix",
            str(layout.objects),
        ],
        layout.log("versitygw"),
        env={"ROOT_ACCESS_KEY": s3.access_key, "ROOT_SECRET_KEY": s3.secret_key},
    )
