"""A Kubernetes batch system that knows no Snakemake: issue, kill, issued, running, updates.

client = KubeClient.load(KubeSettings())
with BatchSystem(client, RunIdentity("demo", "jane")) as batch:
    batch.issue(PodRequest("hello", image="busybox", command=("echo", "hello")))
    while (news := batch.updates()) and news.state not in ("succeeded", "failed"):
        print(news)

docs/batch.md has every name, and an example that runs.
"""

from byok8s.batch.client import ApiError, KubeClient
from byok8s.batch.ends import Cause, Update
from byok8s.batch.lease import Lease, RunIsLed
from byok8s.batch.nodes import NeverFits
from byok8s.batch.placement import Placement
from byok8s.batch.pods import PodRequest, RunIdentity, Staging
from byok8s.batch.retry import Budget, Decision, History, RetryPolicy
from byok8s.batch.system import BatchSystem
from byok8s.batch.waits import Limits

__all__ = [
    "ApiError",
    "BatchSystem",
    "Budget",
    "Cause",
    "Decision",
    "History",
    "KubeClient",
    "Lease",
    "Limits",
    "NeverFits",
    "Placement",
    "PodRequest",
    "RetryPolicy",
    "RunIdentity",
    "RunIsLed",
    "Staging",
    "Update",
]
