"""What can go wrong. No message contains a token."""

from __future__ import annotations

import json
from typing import Mapping, Optional


class NotifyError(Exception):
    """Everything that this package raises of its own."""


class Refused(NotifyError):
    """The server will not do it, and trying again would not help.

    `field` is the path in the body that is wrong, e.g. ``messages[3].target.user_id``.
    """

    def __init__(self, status: int, detail: str, field: Optional[str] = None) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.field = field


class Unavailable(NotifyError):
    """The server could not be reached or could not serve, as often as it was tried.

    A message may have been taken all the same; sending it again with the same idempotency key does no harm.
    """

    def __init__(self, detail: str, status: Optional[int] = None) -> None:
        super().__init__(detail)
        self.status = status


class Closed(NotifyError):
    """The server has ended a stream and asks not to come back; `reason` says why, e.g. ``disconnected``."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the server has ended the stream: {reason}")
        self.reason = reason


def problem(body: bytes) -> Mapping[str, object]:
    """A problem document's members; nothing where the body is none."""
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
