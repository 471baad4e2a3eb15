"""Who we are to S3, and where S3 is: credentials, endpoint and region as the AWS tools find them.

botocore's own session looks (environment, profile, SSO, role, container, instance), so byok8s
finds what `aws` and boto3 find.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from byok8s.exceptions import StorageError
from byok8s.settings import S3Location, S3Options, S3Settings, endpoint_url

CONNECT_SECONDS = 2
READ_SECONDS = 5
MOST_CERTIFICATES = 512 * 1024  # bytes; a Secret, by which pods get them, holds 1 MiB
KEY, SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"


@dataclass(frozen=True)
class Credentials:
    """One set of keys. Its repr shows none of them."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires: datetime | None = None  # None: not known to expire

    def as_ini(self) -> str:
        """The AWS shared credentials file that a pod mounts."""
        lines = [
            "[default]",
            f"aws_access_key_id = {self.access_key}",
            f"aws_secret_access_key = {self.secret_key}",
        ]
        if self.session_token:
            lines.append(f"aws_session_token = {self.session_token}")
        return "\n".join(lines) + "\n"

    def redact(self, text: str) -> str:
        """The text without these keys, should a server have echoed one."""
        for secret in (self.secret_key, self.session_token, self.access_key):
            text = text.replace(secret, "***") if secret else text
        return text


@dataclass(frozen=True)
class Account:
    """Where credentials come from; `current()` gives valid ones, renewed when they can be.

    `current` raises StorageError when they cannot be renewed.
    """

    source: str  # for people: "the environment", "profile 'lab'", "cluster 'dev'"
    current: Callable[[], Credentials] = field(repr=False)

    @classmethod
    def fixed(cls, source: str, credentials: Credentials) -> Account:
        """An account whose keys do not change."""
        return cls(source, lambda: credentials)


@dataclass(frozen=True)
class _Keys:
    """botocore's credentials object, read again at every call since it renews itself."""

    found: Any = field(repr=False)
    profile: str

    def __call__(self) -> Credentials:
        try:
            keys = self.found.get_frozen_credentials()
        except Exception as error:  # every provider has its own kinds
            raise StorageError(_why_not(error, self.profile)) from error
        credentials = Credentials(
            keys.access_key, keys.secret_key, keys.token, getattr(self.found, "_expiry_time", None)
        )
        for part in (keys.access_key, keys.secret_key, keys.token or "x"):
            if not part or part != "".join(part.split()):
                raise StorageError(
                    "The AWS access key, secret key or session token is empty or holds a space or "
                    "a line break; set it again without."
                )
        return credentials


def find_account() -> Account:
    """The account that the AWS tools would use here.

    Raises StorageError when there is none (says where it was looked), when half of a key pair is
    missing, or when a login has expired.
    """
    session = _session()
    profile = session.profile or "default"
    try:
        found = session.get_credentials()
    except Exception as error:
        raise StorageError(_why_not(error, profile)) from error
    if found is None:
        raise StorageError(_none_found(profile))
    account = Account(_source(found.method, profile), _Keys(found, profile))
    account.current()
    return account


def find_server(
    location: S3Location,
    endpoint: str | None,
    region: str | None,
    options: S3Options | None = None,
) -> S3Settings:
    """Where S3 is: as told, else as the AWS config file says, else AWS itself (endpoint None).

    Raises SettingsError when the endpoint is not a URL, StorageError for a broken config file and
    for certificates that cannot be read.
    """
    options = options or S3Options()
    session = _session()
    try:
        endpoint = endpoint or _configured_endpoint(session)
        region = region or session.get_config_variable("region")
        options = replace(options, addressing=options.addressing or _addressing(session))
        authority = session.get_config_variable("ca_bundle")
    except Exception as error:
        raise StorageError(_why_not(error, session.profile or "default")) from error
    if endpoint:
        endpoint = endpoint_url(endpoint)
        region = region or "us-east-1"  # what S3 servers other than AWS expect
    secure = not (endpoint or "").startswith("http://")
    certificates = _certificates(authority) if authority and secure else None
    return S3Settings(location, endpoint or None, region, options, certificates)


def _addressing(session: Any) -> str | None:
    """`addressing_style` of the profile's s3 section, if it decides anything."""
    section = session.get_scoped_config().get("s3", {})
    style = section.get("addressing_style") if isinstance(section, dict) else None
    return style if style in ("path", "virtual") else None


def _certificates(name: str) -> Path:
    path = Path(name).expanduser().absolute()
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"The certificates {path} cannot be read ({type(error).__name__}); "
            "correct AWS_CA_BUNDLE, or ca_bundle in the AWS config file."
        ) from error
    if "-----BEGIN CERTIFICATE-----" not in text or len(text) > MOST_CERTIFICATES:
        raise StorageError(
            f"{path} does not hold certificates in PEM form of at most "
            f"{MOST_CERTIFICATES // 1024} KiB; correct AWS_CA_BUNDLE."
        )
    return path


def _configured_endpoint(session: Any) -> str | None:
    """`endpoint_url` of the profile's services section, else of the profile itself."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    profile = session.get_scoped_config()
    if profile.get("ignore_configured_endpoint_urls", "").lower() == "true":
        return None
    services = session.full_config.get("services", {}).get(profile.get("services"), {})
    found: str | None = services.get("s3", {}).get("endpoint_url") or profile.get("endpoint_url")
    return found


def _session() -> Any:
    """A session whose own calls (to STS, SSO) give up soon."""
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session()
    limits = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS)
    session.set_default_client_config(limits)
    return session


def _source(method: str, profile: str) -> str:
    return {"env": "the environment", "iam-role": "the instance's role"}.get(
        method, f"profile '{profile}' ({method})"
    )


def _none_found(profile: str) -> str:
    def state(name: str) -> str:
        value = os.environ.get(name)
        return f"{name} is {'set' if value else 'not set' if value is None else 'empty'}"

    files = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    return (
        f"No AWS credentials were found in the environment ({state(KEY)}, {state(SECRET)}), in "
        f"profile '{profile}' of {files[0]} and {files[1]}, or from a container's or instance's "
        f"role; set {KEY} and {SECRET}, or run: aws configure."
    )


def _why_not(error: Exception, profile: str) -> str:
    """The sentence for what botocore's credential chain or config file ran into."""
    from botocore import exceptions as known

    option = f" --profile {profile}" if profile != "default" else ""
    name = type(error).__name__
    problem, remedy = f"cannot be had ({name})", f"check with: aws sts get-caller-identity{option}"
    match error:
        case known.PartialCredentialsError() if error.kwargs.get("provider") == "env":
            return f"{KEY} is set but {SECRET} is not; set both, or neither to use a profile."
        case known.PartialCredentialsError():
            problem = f"are incomplete: there is no {error.kwargs.get('cred_var')}"
            remedy = "add it to the AWS credentials file"
        case known.ProfileNotFound():
            problem, remedy = "do not exist", "see: aws configure list-profiles"
        case known.SSOError() | known.TokenRetrievalError():
            problem, remedy = "have expired", f"run: aws sso login{option}"
        case known.ConfigParseError():
            problem = f"cannot be read: {error.kwargs.get('path')} is not valid"
            remedy = "correct the file"
        case known.ClientError():
            problem = f"are refused by AWS ({error.response.get('Error', {}).get('Code', name)})"
    return f"The AWS credentials of profile '{profile}' {problem}; {remedy}."
