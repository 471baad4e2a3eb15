"""Puts a small object over plain HTTP, by nothing but what Python has built in.

To load obstore, open a store and put one object takes 15 ms of a pod's CPU, http.client and what it
imports 35 ms, this half a millisecond. There is one try and no explanation: who calls it does the
same again by obstore, with its retries and its words. To put an object twice is to put it once.
"""

from __future__ import annotations

import _socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:  # hashlib's own, by itself: to load OpenSSL for it takes a pod 3 ms
        from _sha2 import sha256
    except ImportError:
        from _sha256 import sha256  # before Python 3.12

__all__ = ["CONNECT_SECONDS", "DEFAULT_REGION", "LARGEST", "LightBucket", "quoted", "sha256"]

LARGEST = 8 * 1024 * 1024  # bytes; what is larger travels in parts
DEFAULT_REGION = "us-east-1"
# A connection is better tried again than waited for: the kernel repeats a lost SYN after 1 s and
# then 3 s, a resolver a lost question after 5 s
CONNECT_SECONDS = 2.5
_SILENCE_SECONDS = 10.0
_LONGEST_ANSWER = 65536  # bytes of its headers
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")


class LightBucket:
    """A bucket at http://HOST[:PORT][/PATH]."""

    def __init__(
        self, endpoint: str, bucket: str, region: str | None, key_id: str, secret: str
    ) -> None:
        """Raises ValueError for an endpoint of another kind."""
        self.endpoint, self.region = endpoint, region
        scheme, _, rest = endpoint.partition("://")
        self._host, _, path = rest.partition("/")
        name, _, port = self._host.partition(":")
        if scheme != "http" or not name or "[" in name or "@" in self._host:
            raise ValueError(f"{endpoint} is not to be reached plainly")
        self._address = (name, int(port or 80))
        base = path.rstrip("/")
        self._path = f"/{base}/{bucket}/" if base else f"/{bucket}/"
        self._key_id = key_id
        self._secret = secret

    def put(self, key: str, data: bytes) -> str:
        """Store an object; returns its ETag. Raises OSError, and ValueError for any refusal."""
        path = quoted(self._path + key)
        headers = self.signed("PUT", path, data, time.gmtime())
        lines = [f"PUT {path} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
        lines += [f"content-length: {len(data)}", "connection: close", "", ""]
        connection = _connected(self._address)
        try:
            connection.sendall("\r\n".join(lines).encode() + data)
            return _etag(_answer(connection))
        finally:
            connection.close()

    def signed(
        self, method: str, path: str, data: bytes, moment: time.struct_time
    ) -> dict[str, str]:
        """The headers of a request, with its signature; path as it is sent, moment in UTC.

        https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
        """
        digest = sha256(data).hexdigest()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", moment)
        headers = {"host": self._host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
        names = ";".join(headers)
        lines = [method, path, "", *(f"{name}:{text}" for name, text in headers.items())]
        request = "\n".join([*lines, "", names, digest]).encode()
        scope = [stamp[:8], self.region or DEFAULT_REGION, "s3", "aws4_request"]
        text = ["AWS4-HMAC-SHA256", stamp, "/".join(scope), sha256(request).hexdigest()]
        key = f"AWS4{self._secret}".encode()
        for part in scope:
            key = _hmac(key, part.encode())
        signature = _hmac(key, "\n".join(text).encode()).hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._key_id}/{'/'.join(scope)}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return headers


def quoted(path: str) -> str:
    """Percent-encoded as S3 wants it signed: all but RFC 3986's unreserved letters and '/'."""
    return "".join(chr(b) if b in _UNRESERVED else f"%{b:02X}" for b in path.encode())


def _hmac(key: bytes, text: bytes) -> bytes:
    """HMAC-SHA256 by RFC 2104; the module hmac loads OpenSSL."""
    block = (key if len(key) <= 64 else sha256(key).digest()).ljust(64, b"\0")
    inner = sha256(bytes(byte ^ 0x36 for byte in block) + text).digest()
    return sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


def _connected(address: tuple[str, int]) -> _socket.socket:
    problem: OSError = OSError("no address")
    name, port = address
    # as bytes: for a text Python imports the rules of international names, and with them re
    found = _socket.getaddrinfo(name.encode("ascii"), port, 0, _socket.SOCK_STREAM)
    for family, kind, _, _, at in found:
        connection = _socket.socket(family, kind)
        try:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(at)
            connection.settimeout(_SILENCE_SECONDS)
        except OSError as error:
            connection.close()
            problem = error
        else:
            return connection
    raise problem


def _answer(connection: _socket.socket) -> bytes:
    """The status line and the headers of an answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(_LONGEST_ANSWER)
        if not more or len(received) > _LONGEST_ANSWER:
            raise ValueError("no answer")
        received += more
    return received.partition(b"\r\n\r\n")[0]


def _etag(answer: bytes) -> str:
    status, *lines = answer.decode("latin-1").split("\r\n")
    if status.split(" ")[1:2] != ["200"]:
        raise ValueError(status)
    rows = (line.partition(":") for line in lines)
    found = (text.strip().strip('"') for name, _, text in rows if name.lower() == "etag")
    return next(found, "")
