"""Lets a library be imported without parts of it, or of others, that nobody here will call.

A run waits for imports. What is left out stays importable for everybody else, such as the Python
code of a Snakefile.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

_one = threading.RLock()


@contextmanager
def standing_in(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Let `import NAME` give these modules until the end of the block; None: as if missing.

    Only imports whose every import is known belong into the block: who else asks for such a name
    meanwhile keeps a stand-in.
    """
    with _one:
        before = {name: sys.modules[name] for name in modules if name in sys.modules}
        sys.modules.update(modules)  # type: ignore[arg-type]
        try:
            yield
        finally:
            for name in modules:
                sys.modules.pop(name, None)
            sys.modules.update(before)


def module(name: str, **contents: object) -> ModuleType:
    """A module that holds just this."""
    made = ModuleType(name, "Stands in for the real one; see byok8s.standins.")
    vars(made).update(contents)
    return made


def lazy(name: str, **contents: object) -> ModuleType:
    """A module with these contents; whatever else it is asked for is the real one's."""

    def ask(wanted: str) -> Any:
        if wanted.startswith("__"):  # what the import system itself looks for
            raise AttributeError(wanted)
        import_module(name)
        return getattr(sys.modules[name], wanted)

    return module(name, __getattr__=ask, **contents)


def later(name: str, function: str) -> Callable[..., Any]:
    """A function, or a class to be called, of a module that is imported with the first call."""

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(import_module(name), function)(*arguments, **options)

    return call
