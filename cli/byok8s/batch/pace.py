"""A token bucket: how often pods are created."""

from __future__ import annotations

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
