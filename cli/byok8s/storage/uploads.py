"""Uploads that were begun and not ended: no listing shows them, and a store charges for them.

A large object travels in parts. When its sender is killed, they stay until somebody ends the
upload, for which obstore has no word.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

from byok8s.settings import S3Settings
from byok8s.storage.account import Account
from byok8s.storage.bucket import BotoBucket


def end_uploads(s3: S3Settings, account: Account, keys: Collection[str]) -> int:
    """End the uploads of these objects and of what lies below them, as in a folder.

    Nobody may be sending them any more. Returns how many there were; raises StorageError.
    """
    bucket = BotoBucket.of(s3, account, attempts=1)
    ended: set[str] = set()
    start: dict[str, str] = {}
    while True:
        page = bucket.ask("list_multipart_uploads", Prefix=s3.location.key(""), **start)
        found = {
            upload["UploadId"]: upload["Key"]
            for upload in page.get("Uploads", ())
            if upload["UploadId"] not in ended and _is_one(upload["Key"], keys)
        }
        for upload_id, key in found.items():
            bucket.ask("abort_multipart_upload", Key=key, UploadId=upload_id)
        ended |= set(found)
        if not page.get("IsTruncated"):
            return len(ended)
        # The next page begins behind a key, of which there may be more uploads than on this one:
        # the same page again shows them. The marker of an upload is not understood by all servers.
        start = start if found else {"KeyMarker": page["NextKeyMarker"]}


def _is_one(key: str, keys: Collection[str]) -> bool:
    return key in keys or any(str(folder) in keys for folder in PurePosixPath(key).parents)
