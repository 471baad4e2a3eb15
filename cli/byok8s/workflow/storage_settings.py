"""Settings of the Snakemake storage plugin.

No `from __future__ import annotations` here: Snakemake reads the types of the fields.
"""

import os
from dataclasses import dataclass, field
from typing import Optional

from snakemake_interface_storage_plugins.settings import StorageProviderSettingsBase

from byok8s.settings import S3Options
from byok8s.storage.objects import Objects
from byok8s.worker.names import S3_VARIABLE
from byok8s.worker.s3 import open_bucket, open_store
from byok8s.worker.spec import Bucket


@dataclass
class StorageProviderSettings(StorageProviderSettingsBase):
    """Where the S3 server is. Never credentials: Snakemake prints settings on command lines."""

    endpoint_url: Optional[str] = field(  # noqa: UP045 (Snakemake knows Optional only)
        default=None, metadata={"help": "S3 endpoint (default: AWS_ENDPOINT_URL_S3, else AWS)"}
    )
    region: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "S3 region (default: AWS_REGION, else us-east-1)"}
    )
    credentials_file: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": "AWS credentials file (default: AWS_SHARED_CREDENTIALS_FILE)"},
    )
    addressing: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={
            "help": "path: ENDPOINT/BUCKET/KEY, the default; virtual: BUCKET.ENDPOINT/KEY",
            "choices": ["path", "virtual"],
        },
    )
    signing: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": "off: for public buckets, without credentials", "choices": ["on", "off"]},
    )
    ca_file: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": "Certificates to trust beside the system's (default: AWS_CA_BUNDLE)"},
    )
    sse: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={
            "help": "Server-side encryption of what is stored (default: the bucket's)",
            "choices": ["AES256", "aws:kms", "aws:kms:dsse"],
        },
    )
    sse_kms_key_id: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "The key for aws:kms (default: AWS's own for S3)"}
    )
    storage_class: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "Storage class of what is stored (default: STANDARD)"}
    )
    requester_pays: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": "on: pay for requests to others' buckets", "choices": ["on", "off"]},
    )

    def open(self, bucket: str) -> Objects:
        """Open a bucket as the leader says, or, where something is set, as these settings say.

        Raises TransferError.
        """
        s3 = os.environ.get(S3_VARIABLE)
        if s3 and self == StorageProviderSettings():
            where = Bucket.loads(s3)
            if bucket != where.bucket:
                where = where.changed(bucket=bucket, md5_etags=True)
            return Objects(open_bucket(where), where.storage_class, md5_etags=where.md5_etags)
        options = S3Options(
            sse=self.sse,
            sse_kms_key_id=self.sse_kms_key_id,
            storage_class=self.storage_class,
            requester_pays=self.requester_pays == "on",
        )
        store = open_store(
            bucket,
            self.endpoint_url,
            self.region,
            self.credentials_file,
            path_style=self.addressing != "virtual",
            unsigned=self.signing == "off",
            ca_file=self.ca_file,
            options=options.for_obstore(),
        )
        return Objects(store, self.storage_class or "")
