"""byok8s: run a Snakemake workflow on your own Kubernetes cluster, with S3 as the storage.

The layers, top to bottom; an import may only point down (import-linter holds it):

    command/     the command line: parse, one call, print
    run/         the story of one run: look up files, check, plan, execute, report
    workflow/    everything that knows Snakemake: API call, executor, storage provider
    batch/       a Kubernetes batch system that knows no Snakemake
    storage/     objects in S3, buckets, accounts, credentials
    cluster/     local clusters: native, kind, minikube, k3d
    worker/      what runs inside a pod: standard library and obstore
    settings.py  frozen dataclasses: the readers of files, environment and options
    exceptions.py  the errors, drawn as a tree
    standins.py  importing a library without parts of it
"""

__version__ = "1.0.0"
