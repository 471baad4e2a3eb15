"""Removing the empty tables that iptables leaves behind, which iptables itself cannot.

Today's iptables keeps its rules in nftables, and makes a table with its built-in chains at the
first use. `nft delete table` would do, but nft is often not installed; the kernel takes the
same as a few bytes over netlink (linux/netfilter/nfnetlink.h and nf_tables.h).
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

FAMILIES = {"iptables": 2, "ip6tables": 10}  # NFPROTO_IPV4, NFPROTO_IPV6
_NETLINK_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFTABLES = 10
_DELETE_TABLE = _NFTABLES << 8 | 2
_REQUEST, _ACKNOWLEDGE = 0x1, 0x4
_TABLE_NAME = 1


def delete_table(family: int, name: str) -> None:
    """Delete a table with all in it; nothing happens when nftables has no such table."""
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    with kernel, suppress(OSError):  # a kernel without nftables, where it cannot be needed
        kernel.settimeout(2)
        kernel.bind((0, 0))
        kernel.send(deletion(family, name))
        kernel.recv(4096)  # done, or why not: the caller only wants it gone


def deletion(family: int, name: str) -> bytes:
    """The netlink messages that delete a table: a transaction of one change."""
    label = name.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(label), _TABLE_NAME) + label
    attribute += b"\0" * (-len(attribute) % 4)
    return (
        _message(_BATCH_BEGIN, _REQUEST, 0, _NFTABLES)
        + _message(_DELETE_TABLE, _REQUEST | _ACKNOWLEDGE, family, 0, attribute)
        + _message(_BATCH_END, _REQUEST, 0, _NFTABLES)
    )


def _message(kind: int, flags: int, family: int, resource: int, payload: bytes = b"") -> bytes:
    body = struct.pack(">BBH", family, 0, resource) + payload
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
