"""A raw JSON client of the Kubernetes API.

Loading contexts and credentials is the official client's work; its model objects are not used:
they cost 1.5 ms of CPU per pod where `json.loads` takes 0.06 ms.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import tenacity

from byok8s.batch.access import Access, find_access
from byok8s.batch.official import official
from byok8s.batch.pace import seconds_of
from byok8s.exceptions import Byok8sError, ClusterError
from byok8s.settings import KubeSettings

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
PATIENCE_SECONDS = 120.0  # how long one call is retried while the API is down or overloaded
# how long the first calls of a run are retried: a server that is away is told at once, one that
# refuses for now (429, 5xx) is there, and a moment later it may answer
FIRST_PATIENCE = {"patience": 0.0, "while_busy": 10.0}
_LONGEST_RETRY_AFTER = 60.0  # of what a server may ask for
PASSING = frozenset({0, 429, 500, 502, 503, 504})
TLS = "TLS"
_NEVER_STORED = ("request is too large", "message larger than max")  # says etcd, with a 500


class ApiError(Byok8sError):
    """The API server refused a call, or could not be reached (status 0)."""

    def __init__(
        self, status: int, reason: str, message: str, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed later."""
        never = self.reason == TLS or any(said in self.message for said in _NEVER_STORED)
        return self.status in PASSING and not never

    @property
    def peace_seconds(self) -> float:
        """How long the server wants to be left in peace (Retry-After), as far as we heed it."""
        return min(self.retry_after or 0.0, _LONGEST_RETRY_AFTER)


def peace_after(error: BaseException | None) -> float:
    """The `peace_seconds` of any error."""
    return error.peace_seconds if isinstance(error, ApiError) else 0.0


class KubeClient:
    """Calls the API of one context; safe to use from many threads.

    Attributes: `context`, `namespace`, `server` (URL) and `calls`, a count of all requests by
    "VERB resource".
    """

    def __init__(self, access: Access) -> None:
        self.context = access.context
        self.namespace = access.namespace
        self.calls: Counter[str] = Counter()
        self._access = access
        self._lock = threading.Lock()
        self._link = _Link(access.configuration())
        self._date: tuple[str, float] | None = None  # of the last answer, and when it came
        self.server: str = self._link.server

    @classmethod
    def load(cls, kube: KubeSettings) -> KubeClient:
        """The client of a context, without a call yet. Raises ClusterError."""
        return cls(find_access(kube))

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self.call("GET", path, query=query)

    def create(self, path: str, body: Mapping[str, Any], **query: Any) -> dict[str, Any]:
        return self.call("POST", path, query=query, body=body)

    def patch(self, path: str, body: Mapping[str, Any], **query: Any) -> dict[str, Any]:
        """A merge patch: null removes a key."""
        return self.call("PATCH", path, query=query, body=body, content_type=MERGE_PATCH)

    def delete(
        self, path: str, options: Mapping[str, Any] | None = None, **query: Any
    ) -> dict[str, Any]:
        """Delete an object, or with selectors in `query` a collection."""
        return self.call("DELETE", path, query=query, body=options)

    def text(self, path: str, **query: Any) -> str:
        """The body of an answer that is not JSON, such as a log."""
        return str(self._call("GET", path, query=query).decode(errors="replace"))

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """One call; see `_call` for the options. Raises ApiError."""
        answer: dict[str, Any] = self._call(method, path, read=self._object, **options)
        return answer

    def stream(self, path: str, *, silence: float, **query: Any) -> Stream:
        """Open a watch; `silence` is the longest time in seconds without a byte."""
        return Stream(self._send("GET", path, query=query, timeout=silence, stream=True))

    def version(self, timeout: float = 2.5) -> str:
        """The server's version, in at most about `timeout` seconds where none answers.

        Raises ClusterError: unreachable, certificate not trusted, or not logged in.
        """
        try:
            answer = self.call(
                "GET", "/version", timeout=timeout, connect=timeout, **FIRST_PATIENCE
            )
        except ApiError as error:
            raise self.not_ready(error) from error
        return str(answer.get("gitVersion", "unknown"))

    def namespace_exists(self) -> bool:
        """False only when the API says so; who may not ask is told later, by a create."""
        try:
            self.call("GET", f"/api/v1/namespaces/{self.namespace}", **FIRST_PATIENCE)
        except ApiError as error:
            if error.status == 403:
                return True
            if error.status == 404:
                return False
            raise self.not_ready(error) from error
        return True

    def server_time(self) -> float:
        """Epoch seconds by the API server's clock, to a second: clocks of leaders may differ."""
        from email.utils import parsedate_to_datetime

        if self._date is None:
            self.version()
        text, came = self._date or ("", time.time())
        try:
            return parsedate_to_datetime(text).timestamp() + time.time() - came
        except ValueError:  # something between us and the server takes the header away
            return time.time()

    def not_ready(self, error: ApiError) -> ClusterError:
        """The sentence for a cluster that cannot be used at all."""
        if error.status == 401:
            return ClusterError(
                f"The API server {self.server} does not accept the credentials of context "
                f"'{self.context}' (401); log in again or renew them in the kubeconfig."
            )
        if error.status == 403:
            return ClusterError(
                f"The credentials of context '{self.context}' may not use this cluster: "
                f"{error.message}"
            )
        return ClusterError(error.message)

    def close(self) -> None:
        self._link.close()

    def _call(
        self,
        method: str,
        path: str,
        *,
        patience: float = PATIENCE_SECONDS,
        while_busy: float | None = None,
        stop: threading.Event | None = None,
        read: Callable[[bytes], Any] = bytes,
        **options: Any,
    ) -> Any:
        """One call with retries while `patience` (seconds) lasts and `stop` is not set.

        Retried: 429, 5xx and broken connections, with jitter and Retry-After, unless that is
        longer than the patience; `while_busy` is the patience with the first two where it differs.
        Never retried blindly: 400, 403, 404, 409, 422. A 401 reads the credentials anew, once.
        `read` makes of an answer's body what is returned.
        """
        event = stop or threading.Event()

        def is_over(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            answered = isinstance(error, ApiError) and error.status != 0
            limit = while_busy if answered and while_busy is not None else patience
            impatient = peace_after(error) > limit
            return event.is_set() or impatient or (state.seconds_since_start or 0.0) >= limit

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, ApiError) and e.passing),
            stop=is_over,
            wait=_pause,
            sleep=tenacity.sleep_using_event(event),
            reraise=True,
        )
        return retrying(lambda: read(self._send(method, path, **options).data))

    def _object(self, data: bytes) -> dict[str, Any]:
        """What the API says; something before it, such as a portal, may answer in its place."""
        with contextlib.suppress(ValueError):
            answer = json.loads(data or b"{}")
            if isinstance(answer, dict):
                return answer
        message = f"What answers at {self.server} is not a Kubernetes API."
        raise ApiError(0, "NotKubernetes", message)

    def _send(self, method: str, path: str, **options: Any) -> Any:
        link = self._link
        try:
            return self._send_once(link, method, path, **options)
        except ApiError as error:
            if error.status != 401:
                raise
        with self._lock:
            if self._link is link:  # else another thread has just done it
                self._link = _Link(self._access.configuration())
        return self._send_once(self._link, method, path, **options)

    def _send_once(self, link: _Link, method: str, path: str, **options: Any) -> Any:
        with self._lock:
            self.calls[f"{method} {_resource(path)}"] += 1
            headers = link.headers()
        response = link.send(method, path, headers, context=self.context, **options)
        if date := response.headers.get("Date"):
            self._date = date, time.time()
        if response.status < 400:
            return response
        raise _refusal(response)

    def __repr__(self) -> str:
        return f"KubeClient(context={self.context!r}, namespace={self.namespace!r})"


class Stream:
    """The lines of a watch, as they arrive."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        """Ends when the server ends it or `cancel` is called; raises ApiError when cut."""
        rest = b""
        for chunk in self.pieces():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from filter(None, lines)

    def pieces(self) -> Iterator[bytes]:
        """The answer as it comes, as a log that is followed; ends and raises as the lines do."""
        import urllib3

        try:
            yield from self._response.stream(amt=None, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiError(0, "Cut", f"The watch was cut: {error}") from error

    def cancel(self) -> None:
        """Make the iteration end, from any thread."""
        with contextlib.suppress(Exception):  # it may just have ended by itself
            self._response.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
    ) -> None:
        self._response.close()


class _Link:
    """Connections with one set of credentials."""

    def __init__(self, configuration: Any) -> None:
        import urllib3

        if not configuration.verify_ssl:  # the kubeconfig says so; once is enough
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._configuration = configuration
        self._pool = official().RESTClientObject(configuration).pool_manager
        self.server = str(configuration.host).rstrip("/")

    def headers(self) -> dict[str, str]:
        """Reads rotated service-account tokens and expired plugin tokens anew."""
        headers = {"Accept": JSON, "User-Agent": "byok8s"}
        token = self._configuration.auth_settings().get("BearerToken")
        if token and token["value"]:
            headers["Authorization"] = token["value"]
        return headers

    def send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        *,
        context: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = JSON,
        timeout: float = READ_SECONDS,
        connect: float = CONNECT_SECONDS,
        stream: bool = False,
    ) -> Any:
        from urllib.parse import urlencode

        import urllib3

        url = self.server + path + (f"?{urlencode(query)}" if query else "")
        if not stream:
            headers["Accept-Encoding"] = "gzip"
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            return self._pool.request(
                method,
                url,
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=urllib3.Timeout(connect=connect, read=timeout),
                retries=False,
                preload_content=not stream,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _broken(error, self.server, context) from error

    def close(self) -> None:
        self._pool.clear()


def _resource(path: str) -> str:
    """'pods' of '/api/v1/namespaces/x/pods/y', for counting."""
    parts = path.strip("/").split("/")
    if "namespaces" in parts and len(parts) > parts.index("namespaces") + 2:
        rest = parts[parts.index("namespaces") + 2 :]
        return rest[0] if len(rest) < 3 else f"{rest[0]}/{rest[2]}"
    return parts[-1]


def _refusal(response: Any) -> ApiError:
    data = response.data if response.data is not None else response.read()
    try:
        status = json.loads(data)
        message, reason = str(status["message"]), str(status.get("reason", ""))
        details = dict(status.get("details") or {})
    except (ValueError, KeyError, TypeError):
        message, reason, details = data.decode(errors="replace").strip()[:500], "", {}
    after = response.headers.get("Retry-After") or details.get("retryAfterSeconds")
    return ApiError(
        response.status,
        reason,
        message or f"The API answered {response.status}",
        None if after is None else seconds_of(str(after)),
    )


def _broken(error: Exception, server: str, context: str) -> ApiError:
    import urllib3.exceptions as problems

    where = f"the API server {server} of context '{context}'"
    if isinstance(error, problems.SSLError) and "CERTIFICATE" in str(error).upper():
        return ApiError(
            0,
            TLS,
            f"The certificate of {where} is not trusted ({error}); check the server address and "
            "certificate-authority-data in the kubeconfig.",
        )
    if isinstance(error, problems.TimeoutError) and not isinstance(
        error, problems.NewConnectionError
    ):
        why = "no answer in time"
    elif isinstance(error, problems.NameResolutionError):
        why = "its name cannot be resolved"
    else:
        why = (
            "connection refused" if "refused" in str(error) else f"{type(error).__name__}: {error}"
        )
    return ApiError(
        0,
        "Unreachable",
        f"Cannot reach {where}: {why}; is the cluster running, and this machine on its network?",
    )


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try: exponential with jitter, and never before Retry-After."""
    base: float = random.uniform(0.5, 1.0) * min(8.0, 0.2 * 2 ** (state.attempt_number - 1))  # noqa: S311
    return base + peace_after(state.outcome.exception() if state.outcome else None)
