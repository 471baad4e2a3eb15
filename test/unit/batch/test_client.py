"""What is retried, what is not, and what a user is told when a cluster cannot be used."""

from __future__ import annotations

import socket
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from byok8s.batch import ApiError, KubeClient, access
from byok8s.batch.official import official
from byok8s.batch.permissions import Action, forbidden
from byok8s.exceptions import ClusterError
from byok8s.settings import KubeSettings
from support.certificates import self_signed
from support.fakeapi import Api, Asked, Says, kubeconfig, refusal, serve

PODS = "/api/v1/namespaces/lab/pods"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_refusals_are_retried(api: Api, client: KubeClient, status: int):
    api.in_turn(refusal(status, "Busy", "later"), Says({"ok": True}))
    assert client.get(PODS) == {"ok": True}
    assert len(api.asked) == 2


def test_a_cut_connection_is_retried(api: Api, client: KubeClient):
    api.in_turn(Says(cut=True), Says(cut=True), Says({"ok": True}))
    assert client.create(PODS, {"a": 1}) == {"ok": True}
    assert [a.body for a in api.asked] == [{"a": 1}] * 3


@pytest.mark.parametrize("kind", ["seconds", "date", "nonsense"])
def test_retry_after_is_obeyed(api: Api, client: KubeClient, kind: str):
    told = {"seconds": "1", "date": formatdate(time.time() + 2, usegmt=True), "nonsense": "soon"}
    api.in_turn(refusal(429, "TooManyRequests", "slow down", Retry_After=told[kind]), Says())
    began = time.monotonic()
    client.get(PODS)
    least = 0.0 if kind == "nonsense" else 0.9  # a date is of whole seconds
    assert least <= time.monotonic() - began < least + 2.0


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422])
def test_other_refusals_are_not_retried(api: Api, client: KubeClient, status: int):
    api.in_turn(refusal(status, "Why", "the server's own sentence"))
    with pytest.raises(ApiError, match="the server's own sentence") as caught:
        client.create(PODS, {})
    assert (caught.value.status, caught.value.reason) == (status, "Why")
    assert len(api.asked) == 1


def test_patience_ends(api: Api, client: KubeClient):
    api.in_turn(refusal(503, "Down", "down"))
    began = time.monotonic()
    with pytest.raises(ApiError):
        client.call("GET", PODS, patience=0.5)
    assert time.monotonic() - began < 2
    assert len(api.asked) > 1


def test_a_stopped_caller_does_not_wait_on(api: Api, client: KubeClient):
    api.in_turn(refusal(503, "Down", "down", Retry_After="30"))
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(ApiError):
        client.call("GET", PODS, stop=stop)
    assert time.monotonic() - began < 1


def test_an_expired_token_is_renewed_once(api: Api, tmp_path: Path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import json, pathlib\n"
        f"count = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "n = int(count.read_text()) + 1 if count.exists() else 1\n"
        "count.write_text(str(n))\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1',\n"
        "  'kind': 'ExecCredential', 'status': {'token': f'token-{n}'}}))\n"
    )
    version = "client.authentication.k8s.io/v1"
    user = {"exec": {"apiVersion": version, "command": sys.executable, "args": [str(plugin)]}}
    client = KubeClient.load(kubeconfig(tmp_path / "config", api.url, user))

    def answer(asked):
        good = asked.authorization == "Bearer token-2"
        return Says({"ok": True}) if good else refusal(401, "Unauthorized", "Unauthorized")

    api.answer = answer
    assert client.get(PODS) == {"ok": True}
    assert [a.authorization for a in api.asked] == ["Bearer token-1", "Bearer token-2"]
    api.in_turn(refusal(401, "Unauthorized", "Unauthorized"))
    with pytest.raises(ClusterError, match="does not accept the credentials of context 'test'"):
        client.version()
    assert len(api.asked) == 4


def test_a_pods_token_is_read_again_when_it_was_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What a leader in a pod has of its ServiceAccount, which the kubelet replaces."""
    pem, authority, token = (tmp_path / name for name in ("server.pem", "ca.crt", "token"))
    self_signed(pem, authority)
    token.write_text("first")
    (tmp_path / "namespace").write_text("lab\n")
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", tmp_path)
    names = official().load_incluster_config.__globals__
    monkeypatch.setitem(names, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setitem(names, "SERVICE_CERT_FILENAME", str(authority))
    with serve(pem) as api:
        host, _, port = api.url.removeprefix("https://").partition(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)

        def answer(asked: Asked) -> Says:
            good = asked.authorization == f"bearer {token.read_text()}"
            return Says({"ok": True}) if good else refusal(401, "Unauthorized", "Unauthorized")

        api.answer = answer
        client = KubeClient.load(KubeSettings())
        assert (client.context, client.namespace) == ("in-cluster", "lab")
        assert client.get(PODS) == {"ok": True}
        token.write_text("second")
        assert client.get(PODS) == {"ok": True}
        assert [asked.authorization for asked in api.asked] == [
            "bearer first", "bearer first", "bearer second",
        ]  # fmt: skip


def test_a_credential_plugin_that_fails_is_named(api: Api, tmp_path: Path):
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}}
    with pytest.raises(ClusterError, match=r"credentials of context 'test'.*no-such-plugin"):
        KubeClient.load(kubeconfig(tmp_path / "config", api.url, user))


def test_calls_are_counted_by_verb_and_resource(api: Api, client: KubeClient):
    client.get(PODS)
    client.get(f"{PODS}/a")
    client.get(f"{PODS}/a/log")
    client.delete(PODS, labelSelector="x=y")
    assert client.calls == {"GET pods": 2, "GET pods/log": 1, "DELETE pods": 1}
    assert api.asked[-1].query == {"labelSelector": "x=y"}


def test_a_namespace_that_may_not_be_asked_for_is_taken_to_be_there(api: Api, client: KubeClient):
    api.in_turn(refusal(404, "NotFound", 'namespaces "lab" not found'))
    assert not client.namespace_exists()
    api.in_turn(refusal(403, "Forbidden", "may not get namespaces"))
    assert client.namespace_exists()  # we may not know


def test_an_unreachable_server_is_told_at_once(tmp_path: Path):
    with socket.socket() as sock:  # a port that nobody listens on
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    client = KubeClient.load(kubeconfig(tmp_path / "config", url))
    began = time.monotonic()
    with pytest.raises(ClusterError, match=f"{url} of context 'test': connection refused"):
        client.version()
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(("status", "reason"), [(429, "TooManyRequests"), (503, "Unavailable")])
def test_a_server_that_is_busy_when_a_run_begins_is_asked_again(
    api: Api, client: KubeClient, status: int, reason: str
):
    busy = refusal(status, reason, "try again later")
    api.in_turn(busy, busy, Says({"gitVersion": "v1.35.4"}))
    assert client.version() == "v1.35.4"
    api.in_turn(busy, refusal(404, "NotFound", 'namespaces "lab" not found'))
    assert not client.namespace_exists()
    review = {
        "status": {"resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}
    }
    api.in_turn(busy, Says(review))
    assert forbidden(client, [Action("create", "pods")]) == []


def test_a_silent_server_is_told_within_the_timeout(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        client = KubeClient.load(kubeconfig(tmp_path / "config", url))
        began = time.monotonic()
        with pytest.raises(ClusterError, match="no answer in time"):
            client.version(timeout=0.5)
    assert time.monotonic() - began < 2


def test_what_is_no_kubernetes_is_told(api: Api, client: KubeClient):
    api.in_turn(Says("<html>hello</html>"))
    with pytest.raises(ClusterError, match="is not a Kubernetes API"):
        client.version()


@pytest.mark.parametrize("said", ["<html>log in first</html>", '{"kind": "Po', "[]", "7"])
def test_what_a_portal_says_in_the_middle_of_a_run_is_asked_again(
    api: Api, client: KubeClient, said: str
):
    api.in_turn(Says(said), Says({"ok": True}))
    assert client.create(PODS, {"a": 1}) == {"ok": True}
    api.in_turn(Says(said))
    with pytest.raises(ApiError, match="is not a Kubernetes API"):
        client.call("GET", PODS, patience=0.0)


@pytest.mark.parametrize("after", ["-5", "nan", "inf", "", "Mon, 99 Foo"])
def test_a_retry_after_without_sense_neither_hurries_nor_breaks(
    api: Api, client: KubeClient, after: str
):
    api.in_turn(refusal(429, "TooManyRequests", "slow down", Retry_After=after))
    with pytest.raises(ApiError, match="slow down"):
        client.call("GET", PODS, patience=1.0)
    assert len(api.asked) < 6


def test_who_has_less_patience_than_the_server_asks_for_is_told_at_once(
    api: Api, client: KubeClient
):
    api.in_turn(refusal(429, "TooManyRequests", "slow down", Retry_After="50"))
    began = time.monotonic()
    with pytest.raises(ApiError) as caught:
        client.call("DELETE", PODS, patience=2.5)
    assert time.monotonic() - began < 1
    assert caught.value.peace_seconds == 50


@pytest.mark.parametrize(
    "message",
    [
        "etcdserver: request is too large",
        "rpc error: code = ResourceExhausted desc = trying to send message larger than max "
        "(2502018 vs. 2097152)",
    ],
)
def test_what_etcd_never_takes_is_not_tried_again(api: Api, client: KubeClient, message: str):
    api.in_turn(refusal(500, "", message))
    with pytest.raises(ApiError) as caught:
        client.create(PODS, {})
    assert len(api.asked) == 1
    assert not caught.value.passing


def test_the_token_is_in_no_repr(api: Api, client: KubeClient):
    assert "open-sesame" not in repr(client) + str(vars(client))
