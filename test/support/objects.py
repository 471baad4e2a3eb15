"""Small helpers of the tests of objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from byok8s.workflow.storage import StorageObject, StorageProvider


def keys(client: Any, bucket: str, prefix: str = "") -> list[str]:
    found = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [entry["Key"] for entry in found]


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def obj(provider: StorageProvider, bucket: str, key: str) -> StorageObject:
    found: StorageObject = provider.object(f"s3://{bucket}/{key}")
    return found
