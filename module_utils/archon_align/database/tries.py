"""The pause between two tries for a lock."""

from __future__ import annotations

import random
import time


def pause() -> None:
    """Sleep 0.05 to 0.4 s, at random, so that two who want the same lock do not meet again and again."""
    time.sleep(random.uniform(0.05, 0.4))  # noqa: S311 - jitter, nothing secret
