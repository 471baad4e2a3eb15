"""The machine's side of the cluster's network: a bridge, a route, kernel settings."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from byok8s.cluster.native.layout import ADDRESS, BRIDGE, MAC, POD_NETWORK, SERVICE_NETWORK
from byok8s.cluster.native.shell import attempt, run
from byok8s.exceptions import ClusterError

_BRIDGE_FILTERS = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
_WANTED = {"net.ipv4.ip_forward": "1", **dict.fromkeys(_BRIDGE_FILTERS, "1")}
# The kubelet, kube-proxy and the CNI plugins write these
_TOUCHED = (
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
    "net.ipv4.conf.all.route_localnet",
    "net.ipv4.conf.all.arp_notify",
)


def clash(links: Iterable[Mapping[str, Any]], routes: Iterable[Mapping[str, Any]]) -> str | None:
    """One sentence when another link or route has addresses that the cluster needs.

    Takes what `ip -json address` and `ip -json route` print.
    """
    for link in links:
        for address in link.get("addr_info", ()):
            text = f"{address['local']}/{address['prefixlen']}"
            if link["ifname"] != BRIDGE and (network := _overlapped(text)):
                return _sentence(network, link["ifname"], text)
    for route in routes:
        # A wider route, such as a VPN's 10.0.0.0/8, gives way to ours by itself
        network = _overlapped(route["dst"])
        if network and route.get("dev") != BRIDGE and _network(route["dst"]).subnet_of(network):
            return _sentence(network, route.get("dev", "a route"), route["dst"])
    return None


def _overlapped(text: str) -> ipaddress.IPv4Network | None:
    """That of our networks which the other one shares addresses with."""
    if text == "default" or ":" in text:
        return None
    ours = map(ipaddress.IPv4Network, (POD_NETWORK, SERVICE_NETWORK))
    return next((network for network in ours if network.overlaps(_network(text))), None)


def _network(text: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(text, strict=False)


def _sentence(network: ipaddress.IPv4Network, owner: str, text: str) -> str:
    return (
        f"The native driver needs the network {network} for pods and services, and {owner} has "
        f"{text} on this machine; remove that, or use another --driver."
    )


def check() -> None:
    """Raise ClusterError when another network of this machine is in the way."""
    links = json.loads(run(["ip", "-json", "address"]))
    routes = json.loads(run(["ip", "-json", "-4", "route"]))
    if sentence := clash(links, routes):
        raise ClusterError(sentence)


def taken_ports(ports: Mapping[str, tuple[str, int]]) -> list[str]:
    """Those of the named (address, port) pairs that another program listens at."""
    taken = []
    for name, place in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(place)
            except OSError:
                taken.append(name)
    return taken


def up() -> None:
    """Make the bridge with the node's address, and the services' route; fine when they exist."""
    if attempt(["ip", "link", "show", BRIDGE]).returncode != 0:
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "address", "replace", f"{ADDRESS}/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "address", MAC, "up"])
    # kube-proxy turns a service's address into a pod's before the packet would leave; the
    # kernel drops it earlier where there is no route at all
    run(["ip", "route", "replace", SERVICE_NETWORK, "dev", BRIDGE])


def down() -> None:
    """Remove the bridge with its routes, and the pods' links that hang on it."""
    if attempt(["ip", "link", "show", BRIDGE]).returncode != 0:
        return
    ports = json.loads(run(["ip", "-json", "link", "show", "master", BRIDGE]) or "[]")
    for port in ports:
        attempt(["ip", "link", "delete", port["ifname"]])  # may go by itself with its namespace
    run(["ip", "link", "delete", BRIDGE])


def load_modules() -> None:
    """Load the kernel modules that a kernel may have as modules; the rest fails on its own."""
    for module in ("overlay", "br_netfilter"):
        with suppress(ClusterError):  # there may be no modprobe, where all is built in
            attempt(["modprobe", module])


def read_settings() -> dict[str, str]:
    """The kernel settings that a cluster changes, as they are now."""
    paths = {key: _path(key) for key in (*_WANTED, *_TOUCHED)}
    return {key: path.read_text().strip() for key, path in paths.items() if path.exists()}


def write_settings(values: Mapping[str, str] = _WANTED) -> None:
    """Set kernel settings; those that this kernel does not have are left out."""
    for key, value in values.items():
        path = _path(key)
        if path.exists() and path.read_text().strip() != value:
            with suppress(PermissionError):  # read-only in some containers
                path.write_text(value)


def bridge_is_filtered() -> bool:
    """Whether iptables sees traffic between pods, which services between them rest on."""
    path = _path(_BRIDGE_FILTERS[0])
    return path.exists() and path.read_text().strip() == "1"


def _path(key: str) -> Path:
    return Path("/proc/sys", *key.split("."))
