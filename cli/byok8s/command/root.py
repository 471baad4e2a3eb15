"""The command `byok8s` and what is below it."""

from __future__ import annotations

import click

from byok8s import __version__
from byok8s.command.cluster import cluster
from byok8s.command.group import RootGroup
from byok8s.command.run import run
from byok8s.command.runs import cancel, clean, logs, runs, status

HELP = """\
Run a Snakemake workflow on your own Kubernetes cluster, with S3 as the storage.

WORKFLOW names a workflow file and PARAMS a parameter file; their suffix .json, .yaml or .yml may
be left out. 'run' is the default command and may be left out too.

\b
Examples:
  byok8s cluster create                      a cluster and an S3 server on this machine
  byok8s workflow-alpha params-blue --s3-bucket=mybucket
  byok8s workflow-alpha params-blue -b mybucket/project --dry-run
  byok8s workflow-alpha params-blue -b mybucket target2 --context=lab
  byok8s cluster delete

\b
Exit codes: 0 done, 1 the workflow failed, 2 bad usage or a bad file,
3 the environment is not ready and nothing was submitted, 130 interrupted.
"""


@click.group(
    cls=RootGroup,
    default="run",
    help=HELP,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="byok8s", message="%(prog)s %(version)s")
def root() -> None:
    """Never shown: the help text is HELP."""


root.add_command(run)
for command in (runs, status, logs, cancel, clean):
    root.add_command(command)
root.add_command(cluster)
