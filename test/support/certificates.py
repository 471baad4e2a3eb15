"""Certificates that sign themselves, for servers of the tests."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_signed(
    pem: Path, certificate: Path, address: str = "127.0.0.1", *, authority: bool = True
) -> None:
    """Write a key with its certificate to `pem`, and the certificate alone, for who is to trust it.

    What is no `authority` may not sign others: rustls takes no other for a server's own.
    """
    extensions = ["-addext", f"subjectAltName=IP:{address}"]
    if not authority:
        extensions += ["-addext", "basicConstraints=critical,CA:FALSE"]
    made = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "1"]
    files = ["-keyout", str(pem), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", *made, *files, *extensions], check=True, capture_output=True
    )
    pem.write_bytes(pem.read_bytes() + certificate.read_bytes())
