"""Our exception hierarchy.

Byok8sError                 the base: one sentence, no traceback; exit code 1
├── SettingsError           bad usage or a bad file; exit code 2
├── EnvironmentNotReady     found before anything was submitted; exit code 3
│   ├── ClusterError        the cluster, its context, namespace or permissions
│   └── StorageError        the bucket, the S3 endpoint or the credentials
├── WorkflowFailed          the workflow itself failed; exit code 1
└── Interrupted             Ctrl-C or SIGTERM, after clean-up; exit code 130

A message is one sentence that says what is wrong, with the name, and what to do.
"""

from __future__ import annotations


class Byok8sError(Exception):
    """Base of every error that is shown to the user as one sentence."""

    exit_code = 1


class SettingsError(Byok8sError):
    """Bad usage, or a file that is missing or cannot be read."""

    exit_code = 2


class EnvironmentNotReady(Byok8sError):
    """Something outside of the workflow is missing; nothing was submitted."""

    exit_code = 3


class ClusterError(EnvironmentNotReady):
    """The cluster cannot be reached, refuses, or cannot be made."""


class StorageError(EnvironmentNotReady):
    """The bucket, the endpoint or the credentials do not work."""


class WorkflowFailed(Byok8sError):
    """One or more jobs of the workflow failed."""


class Interrupted(Byok8sError):
    """The run was stopped by a signal; what it started was removed."""

    exit_code = 130
