"""A bucket with keys that are no paths can be listed all the same."""

from __future__ import annotations

from typing import Any

import pytest
from byok8s.storage.objects import ObjectMeta, Objects
from byok8s.worker.s3 import open_store

PAGE = """<?xml version="1.0"?><ListBucketResult><Name>b-1</Name><IsTruncated>false</IsTruncated>
{}</ListBucketResult>"""
ITEM = """<Contents><Key>{}</Key><LastModified>2026-11-21T09:00:00.250Z</LastModified>
<ETag>&quot;abc&quot;</ETag><Size>3</Size></Contents>"""


@pytest.mark.parametrize("odd", ["run//x", "run/./y", "run/../z", "run/a&#xA;b", "run/folder//"])
def test_odd_keys_are_left_out(loopback: Any, odd: str) -> None:
    keys = ["run/.byok8s/log", odd, "run/ok", "run/sub/ok too"]
    page = PAGE.format("".join(map(ITEM.format, keys)))
    loopback.answer = lambda request: (200, page, {"Content-Type": "application/xml"})

    def credentials() -> dict[str, Any]:
        return {"access_key_id": "a", "secret_access_key": "s", "token": "t", "expires_at": None}

    objects = Objects(open_store("b-1", loopback.url, credentials=credentials))
    meta = ObjectMeta(3, 1795251600.25, "abc")
    assert objects.list("run/", skip="run/.byok8s/") == {"run/ok": meta, "run/sub/ok too": meta}


def test_times_are_as_exact_as_the_server_tells_them(loopback: Any) -> None:
    page = PAGE.format(ITEM.format("run/a"))
    loopback.answer = lambda request: (200, page, {"Content-Type": "application/xml"})
    credentials = {"access_key_id": "a", "secret_access_key": "s", "token": "", "expires_at": None}
    store = open_store("b-1", loopback.url, credentials=lambda: dict(credentials))
    assert Objects(store).list("run/")["run/a"].mtime == 1795251600.25
