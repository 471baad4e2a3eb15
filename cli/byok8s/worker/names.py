"""Names of what a pod is given and leaves: variables, files, folders."""

from __future__ import annotations

JOB_VARIABLE = "BYOK8S_JOB"
S3_VARIABLE = "BYOK8S_S3"
FACTS_VARIABLE = "BYOK8S_FACTS"  # file with what the leader knows of the job's files (JSON)
GLOBS_VARIABLE = "BYOK8S_GLOBS"  # file with what the leader's glob_wildcards found lately (JSON)
STORED_VARIABLE = "BYOK8S_STORED"  # file to which the storage provider adds a line per transfer
BUNDLE_VARIABLE = "BYOK8S_BUNDLE"
FILES_VARIABLE = "BYOK8S_FILES"  # what is mounted at SECRET_FOLDER else: JSON, base64 by name
OUR_VARIABLES = (JOB_VARIABLE, BUNDLE_VARIABLE)  # no business of the user's command
SECRET_FOLDER = "/var/run/byok8s"  # noqa: S105 (a path, not a secret)
CREDENTIALS_FILE = f"{SECRET_FOLDER}/credentials"  # AWS INI format, profile "default"
CA_FILE = f"{SECRET_FOLDER}/ca.pem"  # certificates to trust beside the system's
WORKDIR = f"{SECRET_FOLDER}/workdir"  # stands in a command for its working directory in the pod
ENVIRONMENT_FILE = f"{SECRET_FOLDER}/environment"  # JSON object: the Snakefile's `envvars:`
SOURCES_FILE = f"{SECRET_FOLDER}/sources"  # the archive of the sources, where that is small
TERMINATION_LOG = "/dev/termination-log"
# https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
TERMINATION_LIMIT = 4096  # bytes, for all containers of a pod; more is cut by the kubelet
SCRATCH_FOLDER = "/tmp"  # noqa: S108 (the pod's own)
