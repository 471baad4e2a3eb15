"""Toil batch system plugin "byok8s": --batchSystem byok8s; see docs/batch.md.

Toil finds this package by its name and imports it. byok8s does not need Toil.
"""

from typing import Any

from toil.batchSystems.registry import add_batch_system_factory


def _factory() -> Any:
    from toil_batch_system_byok8s.system import Byok8sBatchSystem

    return Byok8sBatchSystem


add_batch_system_factory("byok8s", _factory)
