"""Events, and the text/event-stream format. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Tuple

#: The longest event, in characters; the server's payloads are far below.
MAX_EVENT = 8 * 1024 * 1024

_LINE_END = re.compile("\r\n|\n|\r")


@dataclass(frozen=True)
class Event:
    """One event of a stream.

    :param type: e.g. ``new_message`` or ``job.progress``
    :param data: the whole event as it came
    :param id: where a stream goes on behind it; `None` for what is never replayed, such as typing
    """

    type: str
    data: Dict[str, Any]
    id: Optional[str] = None


@dataclass
class Parser:
    """Takes the text of a stream piece by piece."""

    last_id: Optional[str] = None
    retry_ms: Optional[int] = None
    _rest: str = ""
    _data: List[str] = field(default_factory=list)
    _size: int = 0

    def feed(self, text: str) -> Iterator[Tuple[str, Optional[str]]]:
        """The data of each event that is complete, and the last id so far.

        :raises ValueError: an event has no end
        """
        whole = self._rest + text
        # A carriage return at the end may be half of a line break.
        cut = len(whole) - 1 if whole.endswith("\r") else len(whole)
        lines = _LINE_END.split(whole[:cut])
        self._rest = lines.pop() + whole[cut:]
        for line in lines:
            if not line:
                if self._data:
                    yield "\n".join(self._data), self.last_id
                self._data, self._size = [], 0
            else:
                self._line(line)
        if self._size + len(self._rest) > MAX_EVENT:
            raise ValueError("an event is too long")

    def _line(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "data":
            self._data.append(value)
            self._size += len(value)
        elif name == "id" and "\0" not in value:
            self.last_id = value or None
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)
