"""The archive in which a workflow's sources come to its pods.

zlib's compression of the files' names, sizes and executable bits, and of their contents one after
another. A tar would do, but tarfile and what it imports take the pod of a short job as long as a
tenth of all it does.
"""

from __future__ import annotations

import os
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN, _EXECUTABLE = b"-", b"x"


def packed(files: Mapping[str, str | os.PathLike[str]]) -> bytes:
    """The archive of these files, by their paths in it.

    Equal for equal paths, contents and executable bits. Raises OSError.
    """
    rows, contents = [], []
    for name in sorted(files):
        with open(files[name], "rb") as file:
            content = file.read()
            executable = os.fstat(file.fileno()).st_mode & 0o100
        contents.append(content)
        size = str(len(content)).encode()
        rows += [os.fsencode(name), size, _EXECUTABLE if executable else _PLAIN]
    return zlib.compress(b"\0".join([str(len(files)).encode(), *rows, b"".join(contents)]))


def unpack(archive: bytes, root: str | os.PathLike[str], workdir: str) -> None:
    """Unpack the files below `root`, and make sure of the working directory there.

    Raises OSError, and ValueError for what is no such archive, or for a path that leads elsewhere.
    """
    try:
        count, _, rest = zlib.decompress(archive).partition(b"\0")
    except zlib.error as error:
        raise ValueError(f"no archive of sources: {error}") from None
    *rows, contents = rest.split(b"\0", 3 * int(count))
    start = 0
    for row in range(0, len(rows), 3):
        name, size = os.fsdecode(rows[row]), int(rows[row + 1])
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{name} is outside of the sources")
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(contents[start : start + size])
            os.fchmod(file.fileno(), 0o755 if rows[row + 2] == _EXECUTABLE else 0o644)
        start += size
    os.makedirs(os.path.join(root, workdir), exist_ok=True)
