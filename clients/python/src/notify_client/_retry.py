"""How often to try, and how long to wait in between. Pure but for chance."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Mapping, Optional

#: Statuses that may be otherwise the next time.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Retry:
    """Bounds on trying again.

    :param attempts: how often a request is made at most
    :param base: seconds; the first step of the backoff, which doubles with every failure. A stream's server may name another
    :param most: seconds; the longest step
    :param total: seconds that one call waits at most altogether. The server recognises a repeated message for two
        minutes, so it should stay well below that.
    """

    attempts: int = 5
    base: float = 0.5
    most: float = 10.0
    total: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is at least 1, not {self.attempts}")

    def delay(self, failures: int, retry_after: float = 0.0) -> float:
        """Seconds to wait after so many failures: with full jitter, and never less than the server asks for."""
        return retry_after + random.uniform(0.0, min(self.most, self.base * 2.0 ** min(failures - 1, 32)))


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait; 0 where it does not say."""
    value: Optional[str] = headers.get("retry-after")
    try:
        return max(0.0, float(value)) if value else 0.0
    except ValueError:
        return 0.0
