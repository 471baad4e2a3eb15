"""Loads what a run needs in any case while the cluster and the bucket are asked."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from importlib import import_module
from threading import Thread

# In the order in which a run needs them, after Snakemake
_MODULES = ("byok8s.workflow.bucket", "byok8s.workflow.executor", "rich.live")


def load_ahead(*, cluster: bool = True) -> Callable[[], None]:
    """Import the run's libraries in a thread; returns what waits until that is done.

    Nobody else may import Snakemake meanwhile: of modules that import each other, a second thread
    could see one half made. Errors are left to the import that needs the module.
    """
    loading = Thread(target=_load, args=(cluster,), daemon=True, name="byok8s-imports")
    loading.start()
    return loading.join


def _load(cluster: bool) -> None:
    gc.disable()  # what is imported stays: looking for garbage would take a tenth of the time
    try:
        if cluster:  # first, since Snakemake imports plugins that may want the whole client
            with contextlib.suppress(Exception):
                from byok8s.batch.official import official

                official()
        with contextlib.suppress(Exception):
            from byok8s.workflow.imports import import_snakemake

            import_snakemake()
        for name in _MODULES:
            with contextlib.suppress(Exception):
                import_module(name)
    finally:
        gc.freeze()
        gc.enable()
