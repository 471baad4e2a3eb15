"""LIST where obstore has none: it gives up a listing at the first key that it calls no path.

Such keys ('a//b', 'a/./b', with a line break) are not rare in old buckets. No workflow can name
them, so they are left out, and the rest is listed with boto3; only the leader ever needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from byok8s.worker.transfer import ObjectMeta

if TYPE_CHECKING:
    from obstore.store import S3Store


def list_all(store: S3Store, prefix: str) -> Iterator[tuple[str, ObjectMeta]]:
    """Objects whose keys begin with PREFIX and can be paths; raises botocore's errors."""
    config: Any = store.config
    payer = {"RequestPayer": "requester"} if config.get("request_payer") == "true" else {}
    pages = _client(store).get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=config["bucket"], Prefix=prefix, **payer):
        for item in page.get("Contents", ()):
            if _is_path(item["Key"]):
                mtime = item["LastModified"].timestamp()
                yield item["Key"], ObjectMeta(item["Size"], mtime, item["ETag"].strip('"'))


def _client(store: S3Store) -> Any:
    """A client for the same server with the same credentials."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config: Any = store.config
    keys: Any = store.credential_provider() if store.credential_provider else {}
    endpoint = config.get("endpoint_url_s3")
    style = "path"
    if config.get("virtual_hosted_style_request") == "true":
        style = "virtual"  # and the bucket's name is in obstore's endpoint
        endpoint = endpoint and endpoint.replace(f"//{config['bucket']}.", "//", 1)
    unsigned = {"signature_version": UNSIGNED} if config.get("skip_signature") == "true" else {}
    session = boto3.Session(
        aws_access_key_id=keys.get("access_key_id"),
        aws_secret_access_key=keys.get("secret_access_key"),
        aws_session_token=keys.get("token"),
        region_name=config.get("region"),
    )
    return session.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(s3={"addressing_style": style}, **unsigned),
    )


def _is_path(key: str) -> bool:
    parts = key.split("/")
    odd = any(ord(letter) < 32 or ord(letter) == 127 for letter in key)
    return not odd and not any(part in ("", ".", "..") for part in parts)
