"""A kubeconfig file, read and written with care.

It is edited as a tree of YAML nodes, not as Python values: what is not ours keeps its
spelling ("0755", "yes", "2024-01-01") and its order, also in fields that we do not know.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from byok8s.exceptions import ClusterError

LOCK_SECONDS = 10.0
SECTIONS = ("clusters", "users", "contexts", "extensions")


class KubeFile:
    """A kubeconfig as YAML nodes; its sections are lists of mappings that have a name."""

    def __init__(self, root: Any) -> None:
        self._root = root

    @classmethod
    def read(cls, path: Path) -> KubeFile:
        import yaml

        empty = {"apiVersion": "v1", "kind": "Config", "preferences": {}}
        try:
            text = path.read_text()
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except FileNotFoundError:
            root = _node(empty)
        except OSError as error:
            raise ClusterError(
                f"The kubeconfig {path} cannot be read ({error.strerror}); "
                "correct its permissions, or name another file in KUBECONFIG."
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise cls._broken(path, _where(error)) from error
        root = root or _node(empty)
        if not isinstance(root, yaml.MappingNode):
            raise cls._broken(path, "it is not a mapping")
        tree = cls(root)
        tree._check_sections(path)
        return tree

    @staticmethod
    def _broken(path: Path, why: str) -> ClusterError:
        return ClusterError(
            f"The kubeconfig {path} is not valid ({why}); correct it or move it away, "
            "then run the command again."
        )

    def _check_sections(self, path: Path) -> None:
        import yaml

        for section in SECTIONS:
            node = self._child(section)
            if node is None or _is_null(node):
                continue
            if not isinstance(node, yaml.SequenceNode):
                raise self._broken(path, f"'{section}' is not a list")
            if any(not isinstance(item, yaml.MappingNode) for item in node.value):
                raise self._broken(path, f"'{section}' has an entry that is not a mapping")

    def write(self, path: Path) -> None:
        """Replace the file at once; a link stays a link, owner and mode stay (new: 0600)."""
        import yaml

        target = path.resolve()
        text = yaml.serialize(self._root, Dumper=yaml.SafeDumper, width=1 << 30, allow_unicode=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        try:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(text)
                if target.exists():
                    before = target.stat()
                    os.fchmod(stream.fileno(), stat.S_IMODE(before.st_mode))
                    with suppress(PermissionError):  # only root may give a file away
                        os.fchown(stream.fileno(), before.st_uid, before.st_gid)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise

    def get(self, key: str) -> str | None:
        node = self._child(key)
        return None if node is None or not isinstance(node.value, str) else node.value

    def set(self, key: str, value: str) -> None:
        self._set_child(key, _node(value))

    def names(self, section: str) -> list[str]:
        return [_name(item) for item in self._items(section)]

    def find(self, section: str, name: str) -> dict[str, Any] | None:
        import yaml

        for item in self._items(section):
            if _name(item) == name:
                found: dict[str, Any] = yaml.safe_load(yaml.serialize(item))
                return found
        return None

    def put(self, section: str, name: str, entry: dict[str, Any]) -> None:
        entry_node = _node({"name": name, **entry})
        for index, item in enumerate(items := self._items(section)):
            if _name(item) == name:
                items[index] = entry_node
                return
        node = self._child(section)
        if node is None or _is_null(node):
            self._set_child(section, _node([{"name": name, **entry}]))
        else:
            node.value.append(entry_node)
            node.flow_style = node.flow_style and len(node.value) > 1

    def drop(self, section: str, name: str) -> None:
        node = self._child(section)
        if node is not None and not _is_null(node):
            node.value[:] = [item for item in node.value if _name(item) != name]

    def _items(self, section: str) -> list[Any]:
        node = self._child(section)
        if node is None or _is_null(node):
            return []
        items: list[Any] = node.value
        return items

    def _child(self, key: str) -> Any:
        return next((value for k, value in self._root.value if k.value == key), None)

    def _set_child(self, key: str, value: Any) -> None:
        for index, (known, _) in enumerate(self._root.value):
            if known.value == key:
                self._root.value[index] = (known, value)
                return
        self._root.value.append((_node(key), value))
        if len(self._root.value) == 1:
            self._root.flow_style = False


def _node(value: Any) -> Any:
    import yaml

    return yaml.compose(yaml.safe_dump(value, sort_keys=False), Loader=yaml.SafeLoader)


def _is_null(node: Any) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _name(item: Any) -> str:
    return next((str(value.value) for key, value in item.value if key.value == "name"), "")


def _where(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", "not YAML"))
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def _lock_file(path: Path) -> Path:
    target = path.resolve()
    return target.with_name(f"{target.name}.lock")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold FILE.lock, the lock that kubectl, kind and minikube use too; makes the folder.

    Raises ClusterError when it is still held after LOCK_SECONDS, or cannot be made.
    """
    lock = _lock_file(path)
    deadline = time.monotonic() + LOCK_SECONDS
    while not _take(lock, path):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"The kubeconfig {path} is locked by another program; if none is at work, "
                f"delete {lock} and run the command again."
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(lock)


def _take(lock: Path, path: Path) -> bool:
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0))
    except OSError as error:
        if isinstance(error, FileExistsError) and lock.parent.is_dir():
            return False
        raise ClusterError(
            f"The kubeconfig {path} cannot be written ({error.strerror}); "
            "correct the folder's permissions, or name another file in KUBECONFIG."
        ) from error
    return True
