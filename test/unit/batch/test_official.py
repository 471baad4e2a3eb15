"""The official client's way to a cluster is the same without the rest of that client."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WHOLE = "import kubernetes\n"
TELL = """
import json, sys
from pathlib import Path
from byok8s.batch.access import Access
from byok8s.batch.official import official
from byok8s.exceptions import ClusterError

official()
heavy = ("kubernetes", "pydantic", "oauthlib", "requests_oauthlib")
loaded = [name for name in heavy if name in sys.modules]
try:
    made = Access("lab", "default", (Path(sys.argv[1]),)).configuration()
    pool = official().RESTClientObject(made).pool_manager
    read = {name: Path(path).read_text() for name in ("ssl_ca_cert", "cert_file", "key_file")
            if (path := getattr(made, name))}
    told = [made.host, made.verify_ssl, made.proxy, made.auth_settings(), read,
            type(pool).__name__, pool.connection_pool_kw["maxsize"]]
except ClusterError as error:
    told = str(error)
import kubernetes.client
print(json.dumps({"loaded": loaded, "told": told, "model": kubernetes.client.V1Pod.__name__,
    "oauth": [n for n in heavy if n in sys.modules]}))
"""


def told(kubeconfig: Path, before: str = "") -> Any:
    command = [sys.executable, "-c", before + TELL, str(kubeconfig)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def data(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def jwt(**claims: Any) -> str:
    return ".".join(data(json.dumps(part)).rstrip("=") for part in ({"alg": "none"}, claims, {}))


CLUSTER = {"server": "https://10.0.0.1:6443", "certificate-authority-data": data("AUTHORITY")}
OIDC = {
    "idp-issuer-url": "http://127.0.0.1:1",
    "id-token": jwt(exp=1),
    "refresh-token": "r",
    "client-id": "i",
    "client-secret": "s",
}
PLUGIN = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "kind": "ExecCredential",
    "status": {"token": "from-a-plugin"},
}
USERS = {
    "certificates": {"client-certificate-data": data("CERT"), "client-key-data": data("KEY")},
    "a token": {"token": "secret"},
    "a password": {"username": "u", "password": "p"},
    "a plugin": {
        "exec": {
            "apiVersion": PLUGIN["apiVersion"],
            "command": "echo",
            "args": [json.dumps(PLUGIN)],
            "interactiveMode": "Never",
        }
    },
    "a plugin that fails": {"exec": {"apiVersion": PLUGIN["apiVersion"], "command": "false"}},
    "a login that is good": {
        "auth-provider": {"name": "oidc", "config": OIDC | {"id-token": jwt(exp=2**33)}}
    },
}


def write(folder: Path, user: dict[str, Any], **cluster: Any) -> Path:
    path = folder / "config"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": CLUSTER | cluster}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("user", USERS)
def test_what_a_kubeconfig_says_is_understood_the_same(tmp_path: Path, user: str) -> None:
    path = write(tmp_path, USERS[user], **{"proxy-url": "http://proxy.example:3128"})
    whole, part = told(path, WHOLE), told(path)
    assert whole.pop("loaded") and part.pop("loaded") == []
    assert part["told"] == whole["told"] and part["told"]
    assert part["model"] == "V1Pod"


def test_an_expired_login_is_renewed_with_the_whole_client(tmp_path: Path) -> None:
    path = write(tmp_path, {"auth-provider": {"name": "oidc", "config": OIDC}})
    whole, part = told(path, WHOLE), told(path)
    assert part["loaded"] == []
    # nobody listens: who says so is the client's own call
    assert "127.0.0.1" in part["told"] and "/.well-known/openid-configuration" in part["told"]
    assert part["told"].split("(")[0] == whole["told"].split("(")[0]
