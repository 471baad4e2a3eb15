"""The official Kubernetes client's way to a cluster, without the rest of that client.

Reading kubeconfig files, credential plugins, certificates and proxies is its work. Importing all
of it takes 0.3 s of CPU, for models of objects, calls and logins that are not used here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
import threading
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from byok8s.standins import later, lazy, module, standing_in

_NAME = "kubernetes"
_lock = threading.Lock()


class Official(NamedTuple):
    """What byok8s takes from the official client."""

    Configuration: Any
    RESTClientObject: Any  # its pool of connections, made from a Configuration
    load_kube_config: Any
    load_incluster_config: Any


def official() -> Official:
    """The official client's parts; all of it is imported if it looks different inside.

    While this runs, nobody else may import that client.
    """
    with _lock:
        return _official()


@functools.cache
def _official() -> Official:
    if _NAME not in sys.modules:
        with contextlib.suppress(Exception), standing_in(_stand_ins()):
            try:
                return _parts()
            finally:  # nobody else shall get this half of it
                for name in [name for name in sys.modules if name.startswith(f"{_NAME}.")]:
                    del sys.modules[name]
    return _parts()


def _parts() -> Official:
    config = import_module(f"{_NAME}.config")
    return Official(
        import_module(f"{_NAME}.client.configuration").Configuration,
        import_module(f"{_NAME}.client.rest").RESTClientObject,
        config.load_kube_config,
        config.load_incluster_config,
    )


def _stand_ins() -> dict[str, ModuleType]:
    """Packages that import nothing before they are asked; logins by OIDC get the real ones."""
    spec = importlib.util.find_spec(_NAME)
    root = list(spec.submodule_search_locations or ()) if spec else []
    config = f"{_NAME}.client.configuration"
    client = {
        "ApiClient": later(f"{_NAME}.client", "ApiClient"),
        "__getattr__": lambda name: getattr(import_module(config), name),
    }
    session = later("requests_oauthlib", "OAuth2Session")
    return {
        _NAME: module(_NAME, __path__=root),
        **{
            f"{_NAME}.{part}": module(
                f"{_NAME}.{part}", __path__=[f"{path}/{part}" for path in root], **contents
            )
            for part, contents in (("client", client), ("utils", {}))
        },
        "requests_oauthlib": module("requests_oauthlib", OAuth2Session=session),
        "oauthlib": lazy("oauthlib"),
        "oauthlib.oauth2": lazy("oauthlib.oauth2"),
    }
