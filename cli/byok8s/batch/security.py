"""What of a pod goes below Pod Security "restricted". Pure.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_HOST = ("hostNetwork", "hostPID", "hostIPC")
_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip
_SELINUX_TYPES = (None, "", "container_t", "container_init_t", "container_kvm_t",
                  "container_engine_t")  # fmt: skip
_CONFINED = ("RuntimeDefault", "Localhost")


def below_restricted(pod: Mapping[str, Any]) -> list[str]:
    """The fields of a pod for which Pod Security "restricted" would refuse it."""
    spec = pod["spec"]
    shared = spec.get("securityContext", {})
    found = [f"spec.{field}" for field in _HOST if spec.get(field)]
    found += [
        f"spec.volumes '{volume['name']}' ({', '.join(volume.keys() - {'name'})})"
        for volume in spec.get("volumes", ())
        if volume.keys() - {"name"} - _VOLUMES
    ]
    found += [
        f"spec.securityContext.sysctls '{sysctl.get('name')}'"
        for sysctl in shared.get("sysctls", ())
        if sysctl.get("name") not in _SYSCTLS
    ]
    found += [f"spec.securityContext.{field}" for field in _of_context(shared)]
    for container in [*spec["containers"], *spec.get("initContainers", ())]:
        found += [f"{field} of container '{container['name']}'" for field in _of(container, shared)]
    return found


def _of_context(context: Mapping[str, Any]) -> Iterator[str]:
    """What neither a pod's nor a container's security context may say."""
    if context.get("runAsUser") == 0:
        yield "runAsUser"
    if context.get("runAsNonRoot") is False:
        yield "runAsNonRoot"
    for profile in ("seccompProfile", "appArmorProfile"):
        if profile in context and context[profile].get("type") not in _CONFINED:
            yield profile
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "windowsOptions.hostProcess"


def _of(container: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    capabilities = context.get("capabilities", {})
    yield from _of_context(context)
    for field in ("runAsNonRoot", "seccompProfile"):
        if field not in context and field not in shared:
            yield field
    if context.get("privileged"):
        yield "privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {
        "NET_BIND_SERVICE"
    }:
        yield "capabilities"
    if context.get("procMount", "Default") != "Default":
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "ports.hostPort"
