"""How often the API server is called: a token bucket, and what its Retry-After says."""

from __future__ import annotations

import contextlib
import threading
import time


class TokenBucket:
    """Lets `rate` through in a second on average and `burst` at once; a rate of 0: all."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, stop: threading.Event) -> bool:
        """Wait for a token; False when `stop` was set first."""
        if not self._rate:
            return not stop.is_set()
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
            self._tokens -= 1  # may become a debt: whoever comes later waits longer
            wait = -self._tokens / self._rate
        return not stop.wait(wait) if wait > 0 else not stop.is_set()


def seconds_of(after: str) -> float | None:
    """Of Retry-After: a number, or a date, as gateways may say it; None: it is neither."""
    from email.utils import parsedate_to_datetime

    with contextlib.suppress(ValueError):
        return seconds if (seconds := float(after)) >= 0 else None  # nor is it with "nan"
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    return None
