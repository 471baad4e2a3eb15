"""One way to open a bucket and one way to say what went wrong, for the leader and for pods."""

from __future__ import annotations

import configparser
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from byok8s.worker.light import CONNECT_SECONDS, DEFAULT_REGION

if TYPE_CHECKING:
    from obstore.store import S3Store

    from byok8s.worker.spec import Bucket

T = TypeVar("T")

# obstore asks again for credentials that expire within five minutes; one more keeps it from
# asking at every request, and a refreshed file is seen after a minute at most.
_REREAD = timedelta(minutes=6)
# patterns; to compile them takes a pod longer than to do without, as most jobs do
_CODE = r"<Code>([A-Za-z0-9.]+)</Code>"
_REQUEST = r"performing \w+ (https?://[^/ ]+)\S* in .*? - (.+)"
_CERTIFICATE = r"InvalidCertificate\(\s*(\w+)"
# In the first line of an error: no answer, or one that may be another a moment later
_AWAY = r"HTTP error: |non-2xx status code: (?:429|50[0234]|5[1-9]\d)\b"
_BAD_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"}

READ_SECONDS = 120.0  # longest silence of a server

CredentialSource = Callable[[], "dict[str, Any]"]

# obstore's pause is drawn between the first one and `base` times the last one, so that with a small
# base it may stay short: ten pauses with a base of 3 were over after 2 s in one of a hundred cases.
# These last 46 s in half of all, and less than 24 s in one of a thousand, by simulation; the first
# five take 6 s. An outage of 20 s is outlasted.
RETRIES = 20
_BACKOFF = {
    "init_backoff": timedelta(seconds=0.1),
    "max_backoff": timedelta(seconds=3),
    "base": 6,
}


class TransferError(Exception):
    """Something with an object went wrong: one sentence that names bucket and key."""


class ObjectMissing(TransferError):
    """There is no such object."""


class StorageAway(TransferError):
    """The store did not answer, or not now, for as long as it was asked: that is nobody's fault."""


class FileCredentials:
    """Reads an AWS credentials file, again and again, since it is refreshed while a run lasts."""

    def __init__(self, path: str | os.PathLike[str], profile: str | None = None) -> None:
        self._path = Path(path)
        self._profile = profile or os.environ.get("AWS_PROFILE") or "default"

    def __call__(self) -> dict[str, Any]:
        """The credentials in obstore's words; raises TransferError when there are none."""
        # No interpolation: a secret may contain '%'
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(self._path.read_text())
            section = parser[self._profile]
            return {
                "access_key_id": section["aws_access_key_id"],
                "secret_access_key": section["aws_secret_access_key"],
                "token": section.get("aws_session_token"),
                "expires_at": datetime.now(UTC) + _REREAD,
            }
        except (OSError, KeyError, configparser.Error):  # the cause could show the file's content
            raise TransferError(
                f"There is no complete profile '{self._profile}' in the credentials file "
                f"{self._path}; check AWS_SHARED_CREDENTIALS_FILE and AWS_PROFILE."
            ) from None

    def __repr__(self) -> str:
        return f"FileCredentials({str(self._path)!r})"


def outlast(
    work: Callable[[], T], seconds: float, tell: Callable[[bytes], None] | None = None
) -> T:
    """Do something with a store; when that is away, again and again while `seconds` last.

    `tell` is given a line each time. Raises what `work` raises.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return work()
        except StorageAway as error:
            left = until - time.monotonic()
            if left <= 0:
                raise
            if tell:
                tell(f"{error} It is tried again for {left:.0f} s.\n".encode())
            time.sleep(min(1.0, left))


def open_store(
    bucket: str,
    endpoint_url: str | None = None,
    region: str | None = None,
    credentials_file: str | os.PathLike[str] | None = None,
    *,
    credentials: CredentialSource | None = None,
    path_style: bool = True,
    unsigned: bool = False,
    ca_file: str | None = None,
    read_timeout: float = READ_SECONDS,
    retries: int = RETRIES,
    options: dict[str, Any] | None = None,
) -> S3Store:
    """Open a bucket; nothing is sent yet.

    What is not given comes from the AWS_* environment. Credentials, in this order: the callable,
    the credentials file, the environment, the file of AWS_SHARED_CREDENTIALS_FILE or
    ~/.aws/credentials, a web identity, the container's or the machine's role.

    read_timeout, in seconds, is the longest silence of the server; retries, with growing pauses,
    are of each request; options are further settings of obstore (encryption, requester pays).
    """
    from obstore.store import S3Store

    endpoint = endpoint_url or first_variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    region = region or first_variable("AWS_REGION", "AWS_DEFAULT_REGION")
    config: Any = {"region": region or DEFAULT_REGION, **(options or {})}
    client: Any = {
        "timeout": timedelta(minutes=30),  # of a whole request; obstore's own is 30 s
        "read_timeout": timedelta(seconds=read_timeout),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
    }
    if endpoint:
        endpoint = (endpoint if "://" in endpoint else f"https://{endpoint}").rstrip("/")
        client["allow_http"] = endpoint.startswith("http://")
        # under this name, since the environment's AWS_ENDPOINT_URL_S3 outdoes "endpoint"
        config["aws_endpoint_url_s3"] = endpoint if path_style else _with_bucket(endpoint, bucket)
    config["virtual_hosted_style_request"] = not path_style
    config["disable_bulk_delete"] = True  # not every server knows DeleteObjects
    ca_file = ca_file or first_variable("AWS_CA_BUNDLE")
    if ca_file and not (endpoint or "").startswith("http://"):
        client["root_certificate"] = Path(ca_file).read_bytes()
    if unsigned:
        config["skip_signature"] = True
    elif credentials is None:
        credentials = _default_credentials(credentials_file)
    retrying: Any = {
        "max_retries": retries,
        "retry_timeout": timedelta(minutes=3),
        "backoff": _BACKOFF,
    }
    with sentences("open", bucket):  # of half a pair of keys, for one
        return S3Store(
            bucket,
            config=config,
            client_options=client,
            retry_config=retrying,
            credential_provider=None if unsigned else cast("Any", credentials),
        )


def patient(store: S3Store, seconds: float) -> S3Store:
    """The same bucket, where the server may be silent for so long."""
    from obstore.store import S3Store

    # as a store tells its settings, it takes some of them with this prefix only
    config: Any = {f"aws_{name}": value for name, value in store.config.items()}
    return S3Store(
        config=config,
        client_options={**(store.client_options or {}), "read_timeout": timedelta(seconds=seconds)},
        retry_config=store.retry_config,
        credential_provider=cast("Any", store.credential_provider),
    )


def open_bucket(
    where: Bucket,
    credentials_file: str | os.PathLike[str] | None = None,
    *,
    credentials: CredentialSource | None = None,
    ca_file: str | None = None,
) -> S3Store:
    """Open a bucket as `open_store` does, from its description."""
    return open_store(
        where.bucket,
        where.endpoint_url,
        where.region,
        credentials_file,
        credentials=credentials,
        path_style=where.path_style,
        ca_file=ca_file,
        options=where.options,
    )


def _default_credentials(path: str | os.PathLike[str] | None) -> CredentialSource | None:
    """A reader of the credentials file; None where obstore finds credentials by itself."""
    if path:
        return FileCredentials(path)
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return None
    default = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
    path = default.expanduser()
    return FileCredentials(path) if path.is_file() else None


def first_variable(*names: str) -> str | None:
    """The first of these variables that is set."""
    return next((value for name in names if (value := os.environ.get(name))), None)


def _with_bucket(endpoint: str, bucket: str) -> str:
    parts = urlsplit(endpoint)
    return parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()


@contextmanager
def sentences(doing: str, bucket: str, key: str = "") -> Iterator[None]:
    """Turn what obstore raises into a TransferError; doing is a verb as in "read"."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and error.errno is not None:
            raise  # a local file
        # The cause is left out: it can quote the signed request
        raise _explained(error, doing, bucket, key) from None


def _explained(error: Exception, doing: str, bucket: str, key: str) -> TransferError:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error)
    code = found[1] if (found := re.search(_CODE, text)) else ""
    name = f"s3://{bucket}/{key}".rstrip("/")
    if code == "NoSuchBucket":
        return ObjectMissing(f"The bucket '{bucket}' does not exist; create it, or name another.")
    if isinstance(error, FileNotFoundError):
        return ObjectMissing(f"There is no object {name}.")
    if code in _BAD_KEYS or isinstance(error, UnauthenticatedError):
        return TransferError(
            f"Could not {doing} {name}: the S3 server does not accept the credentials"
            f"{f' ({code})' if code else ''}; check access key, secret key and session token."
        )
    if isinstance(error, PermissionDeniedError) or code == "AccessDenied":
        return TransferError(
            f"Could not {doing} {name}: access denied{f' ({code})' if code else ''}; "
            "check the bucket's policy and the permissions of the credentials."
        )
    reason = f"the S3 server answers '{code}'" if code else _first_words(text)
    away = re.search(_AWAY, text.split("\n", 1)[0]) and not re.search(_CERTIFICATE, text)
    kind = StorageAway if away or code == "RequestTimeout" else TransferError
    return kind(f"Could not {doing} {name}: {reason}.")


def _first_words(text: str) -> str:
    """The readable part of an error of obstore, without the server's page and its details."""
    line = re.sub(r"\s+", " ", text.split("\n", 1)[0].split("<", 1)[0]).strip().rstrip(".:- ")
    found = re.search(_REQUEST, line)
    if not found:
        return line
    server, reason = found.groups()
    if bad := re.search(_CERTIFICATE, text):  # in the details below the line
        return (
            f"the TLS certificate of {server} is not trusted ({bad[1]}); "
            "name the file of its authority in AWS_CA_BUNDLE"
        )
    if "error sending request" in reason:
        return f"the S3 server at {server} cannot be reached or does not answer"
    reason = reason.removeprefix("HTTP error: ").removeprefix(
        "Server returned non-2xx status code: "
    )
    return f"the S3 server at {server} answers '{reason}'"
