"""What the run's Secret has for the pods: files, which they find mounted or in one variable."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from byok8s.worker.names import CREDENTIALS_FILE, FILES_VARIABLE
from byok8s.worker.spec import LONGEST_VARIABLE

_ALL = "all"  # the entry with all files


class RunSecret:
    """The Secret's files; with keys that expire they change while the run lasts."""

    def __init__(self, files: Mapping[str, str | bytes]) -> None:
        """`files` by the path that pods find them at."""
        self._files = {
            Path(path).name: data.encode() if isinstance(data, str) else data
            for path, data in files.items()
        }
        self._all = self._packed()

    def renew(self, credentials: str) -> bool:
        """Take other keys; whether they are others."""
        name, data = Path(CREDENTIALS_FILE).name, credentials.encode()
        if self._files[name] == data:
            return False
        self._files[name] = data
        self._all = self._packed()
        return True

    @property
    def entries(self) -> dict[str, str | bytes]:
        """The files, and once more all of them in one, where that is not too long.

        It stays when keys begin to expire: a pod may wait that was promised it.
        """
        return {**self._files, **({_ALL: self._all} if self._all else {})}

    @property
    def variable(self) -> dict[str, str]:
        """The entry by the variable in which a pod without volumes gets the files.

        None where they are too long, or where keys expire: only a file can be renewed in a pod.
        """
        expire = b"aws_session_token" in self._files[Path(CREDENTIALS_FILE).name]
        return {FILES_VARIABLE: _ALL} if self._all and not expire else {}

    def _packed(self) -> str:
        data = {name: b64encode(content).decode() for name, content in self._files.items()}
        text = json.dumps(data)
        return text if len(text) <= LONGEST_VARIABLE else ""

    def __repr__(self) -> str:
        return f"RunSecret({', '.join(self._files)})"
