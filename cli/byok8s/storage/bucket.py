"""A run's bucket: described for pods, and asked for everything that the run will need of it."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import Any

from byok8s.exceptions import StorageError
from byok8s.settings import S3Options, S3Settings
from byok8s.storage.account import CONNECT_SECONDS, READ_SECONDS, Account, Credentials
from byok8s.worker.spec import Bucket

_TEXT = b"byok8s\n"
_REDIRECTED = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed")
_PERMISSIONS = {
    "list_objects_v2": "s3:ListBucket",
    "put_object": "s3:PutObject",
    "head_object": "s3:GetObject",
    "delete_object": "s3:DeleteObject",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
}


def check_bucket(s3: S3Settings, account: Account) -> S3Settings:
    """List, write, read and delete below the prefix; gives the settings with what was learnt:
    the bucket's region, and whether its ETags are MD5s.

    The only object made is PREFIX/.byok8s/.write-test-RANDOM, which is removed again.
    Raises StorageError: unreachable, missing, refused (names the permission), or wrong region.
    """
    credentials = account.current()
    key = s3.location.key(f".byok8s/.write-test-{secrets.token_hex(8)}")
    attempts = 2
    if s3.region:
        if checked := _checked_as_used(s3, credentials, key):
            return checked
        attempts = 1  # a silent server is waited for twice
    bucket = BotoBucket.of(s3, account, attempts)
    listed = bucket.ask("list_objects_v2", Prefix=s3.location.key(""), MaxKeys=1)
    written = bucket.ask("put_object", Key=key, Body=_TEXT, **_encryption(s3.options))
    try:
        bucket.ask("head_object", Key=key)
    finally:
        bucket.ask("delete_object", Key=key)
    region = listed["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    return _learnt(s3, written.get("ETag", ""), region)


def _checked_as_used(s3: S3Settings, credentials: Credentials, key: str) -> S3Settings | None:
    """The same check with what the run itself uses; None when something is wrong.

    What that is, botocore's client finds out, in detail: it takes 0.2 s of CPU to be made, and a
    bucket in which all is well need not wait for it. Nor does this follow a bucket to its region.
    """
    from itertools import islice

    from byok8s.worker.s3 import open_store

    try:
        where = describe(s3)
        store = open_store(
            where.bucket,
            where.endpoint_url,
            where.region,
            credentials=lambda: {
                "access_key_id": credentials.access_key,
                "secret_access_key": credentials.secret_key,
                "token": credentials.session_token,
                "expires_at": None,
            },
            path_style=where.path_style,
            ca_file=str(s3.ca_file) if s3.ca_file else None,
            read_timeout=READ_SECONDS,
            retries=0,
            options=where.options,
        )
        list(islice(store.list(s3.location.key("").rstrip("/") or None, chunk_size=1), 1))
        written = store.put(key, _TEXT, use_multipart=False)
        try:
            store.head(key)
        finally:
            store.delete(key)
    except Exception:  # of obstore, its network and TLS libraries
        return None
    return _learnt(s3, written["e_tag"] or "", s3.region)


def _learnt(s3: S3Settings, etag: str, region: str | None) -> S3Settings:
    md5 = hashlib.md5(_TEXT, usedforsecurity=False).hexdigest()
    return replace(s3, region=region or s3.region, md5_etags=etag.strip('"') in ("", md5))


def _encryption(options: S3Options) -> dict[str, str]:
    wanted = {"ServerSideEncryption": options.sse, "SSEKMSKeyId": options.sse_kms_key_id}
    return {name: value for name, value in wanted.items() if value}


def describe(s3: S3Settings, name: str = "") -> Bucket:
    """A bucket of the server, by default the run's, in words for pods: nothing of this machine."""
    return Bucket(
        name or s3.location.bucket,
        s3.endpoint_url,
        s3.region,
        path_style=s3.options.addressing != "virtual",
        storage_class=s3.options.storage_class or "",
        md5_etags=s3.md5_etags or name not in ("", s3.location.bucket),
        options=s3.options.for_obstore(),
    )


def _client(s3: S3Settings, credentials: Credentials, attempts: int) -> Any:
    import botocore.session
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        s3={"addressing_style": s3.options.addressing or ("path" if s3.endpoint_url else "auto")},
        request_checksum_calculation="when_required",  # servers other than AWS may not know more
        ignore_configured_endpoint_urls=True,  # s3 is the answer already
    )
    return botocore.session.Session().create_client(
        "s3",
        endpoint_url=s3.endpoint_url,
        region_name=s3.region or "us-east-1",
        verify=str(s3.ca_file) if s3.ca_file else None,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.session_token,
        config=config,
    )


@dataclass(frozen=True)
class BotoBucket:
    """The bucket by botocore: for what obstore has no word for, and to find out what is wrong."""

    s3: S3Settings
    source: str
    credentials: Credentials
    client: Any

    @classmethod
    def of(cls, s3: S3Settings, account: Account, attempts: int) -> BotoBucket:
        """`attempts` are those of each request."""
        credentials = account.current()
        return cls(s3, account.source, credentials, _client(s3, credentials, attempts))

    def ask(self, operation: str, **arguments: Any) -> Any:
        """One request; raises StorageError, in whose sentence no key is to be seen."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from botocore.exceptions import ConnectionError as BotoConnectionError

        if self.s3.options.requester_pays:
            arguments["RequestPayer"] = "requester"
        try:
            return getattr(self.client, operation)(Bucket=self.s3.location.bucket, **arguments)
        except ClientError as error:
            problem, cause = self._refused(operation, error.response), error
        except (HTTPClientError, BotoConnectionError) as error:
            problem, cause = self._unreachable(error), error
        except BotoCoreError as error:
            problem, cause = self._strange(type(error).__name__), error
        raise StorageError(self.credentials.redact(problem)) from cause

    @property
    def _server(self) -> str:
        return f"The S3 server {self.s3.endpoint_url}" if self.s3.endpoint_url else "AWS S3"

    def _unreachable(self, error: Exception) -> str:
        name = type(error).__name__
        if "SSL" in name:
            return (
                f"{self._server} makes no TLS connection with this machine; name the file of its "
                "certificate authority in AWS_CA_BUNDLE, or use http:// if it has no TLS."
            )
        if "ReadTimeout" in name:
            return (
                f"{self._server} took the connection but did not answer in {READ_SECONDS} s; "
                "check that it is well, and --s3-endpoint-url."
            )
        return f"{self._server} cannot be reached; check --s3-endpoint-url and the network."

    def _strange(self, answer: str) -> str:
        return f"{self._server} does not answer as S3 does ({answer}); check --s3-endpoint-url."

    def _refused(self, operation: str, response: dict[str, Any]) -> str:
        """The sentence for an answer of S3."""
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        name = self.s3.location.bucket
        where = f" at {self.s3.endpoint_url}" if self.s3.endpoint_url else ""
        known = self._known(where)
        if code in known:
            return known[code]
        if code in _REDIRECTED or status in (301, 307):
            return self._wrong_region(response)
        if status == 403:
            return (
                f"Access to bucket '{name}'{where} is refused to the keys from {self.source}: they "
                f"need {_PERMISSIONS[operation]} there, or the bucket is somebody else's."
            )
        if code.isdigit():  # botocore puts the status where it finds no code of S3
            return self._strange(code)
        message = " ".join(str(response.get("Error", {}).get("Message", "")).split())[:200]
        return (
            f"{self._server} answers '{code}: {message.rstrip('.')}' to {operation} in '{name}'; "
            "try again, or ask who runs it."
        )

    def _known(self, where: str) -> dict[str, str]:
        """S3's error codes that have a sentence of their own."""
        bad = f"{self._server} does not accept the keys from {self.source}"
        expired = f"The session of the keys from {self.source} has expired; log in again."
        missing = (
            f"Bucket '{self.s3.location.bucket}' does not exist{where}; "
            f"create it with: {self._make_bucket()}."
        )
        unknown = f"{bad}, since it does not know them; check the access key."
        return {
            "InvalidAccessKeyId": unknown,
            "XAdminUserNotFound": unknown,  # versitygw's word for it
            "SignatureDoesNotMatch": f"{bad}; check the secret key.",
            "ExpiredToken": expired,
            "InvalidToken": expired,
            "RequestTimeTooSkewed": f"{self._server} has another time than this machine; set its "
            "clock.",
            "NoSuchBucket": missing,
        }

    def _wrong_region(self, response: dict[str, Any]) -> str:
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or response.get("Error", {}).get("Region")
        told = f"not in {self.s3.region}" if self.s3.region else "in another region"
        hint = f"--s3-region={region}" if region else "--s3-region"
        return f"Bucket '{self.s3.location.bucket}' is {told}; name its region with {hint}."

    def _make_bucket(self) -> str:
        parts = ["aws s3 mb", f"s3://{self.s3.location.bucket}"]
        if self.s3.endpoint_url:
            parts.append(f"--endpoint-url {self.s3.endpoint_url}")
        elif self.s3.region:
            parts.append(f"--region {self.s3.region}")
        return " ".join(parts)
