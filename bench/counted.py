"""Run a Python script and count its calls of the Kubernetes API: counted.py FILE SCRIPT ARGUMENTS.

Both Kubernetes clients send through urllib3. FILE gets a JSON object of counts by verb.
"""

from __future__ import annotations

import atexit
import json
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import urllib3

calls: Counter[str] = Counter()
_urlopen = urllib3.HTTPSConnectionPool.urlopen  # S3 is spoken to without TLS here


def _counting(pool: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
    if isinstance(pool, urllib3.HTTPSConnectionPool):
        calls["WATCH" if "watch=1" in url else method] += 1
    return _urlopen(pool, method, url, *args, **kwargs)


urllib3.HTTPConnectionPool.urlopen = _counting  # type: ignore[method-assign, assignment]
target = Path(sys.argv[1])
atexit.register(lambda: target.write_text(json.dumps(calls)))
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
