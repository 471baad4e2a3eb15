"""Snakemake storage plugin "byok8s": files in S3."""

from byok8s.workflow.storage import StorageObject, StorageProvider, StorageProviderSettings

__all__ = ["StorageObject", "StorageProvider", "StorageProviderSettings"]
