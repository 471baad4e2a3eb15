"""Snakemake executor plugin "byok8s": bare pods on a Kubernetes cluster."""

from byok8s.workflow.executor import Executor, ExecutorSettings, common_settings

__all__ = ["Executor", "ExecutorSettings", "common_settings"]
