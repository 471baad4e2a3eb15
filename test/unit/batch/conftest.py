from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from byok8s.batch import KubeClient
from support.fakeapi import Api, kubeconfig, serve


@pytest.fixture
def api() -> Iterator[Api]:
    with serve() as api:
        yield api


@pytest.fixture
def client(api: Api, tmp_path: Path) -> KubeClient:
    return KubeClient.load(kubeconfig(tmp_path / "config", api.url))
