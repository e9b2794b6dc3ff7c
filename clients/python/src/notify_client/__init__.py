"""Publishing to a notify-server, and listening to it.

    from notify_client import Client

    with Client("https://notify.example.com", token=TOKEN) as client:
        client.send({"type": "invoice.paid", "target": {"user_id": 2}, "data": {"number": 17}})
        for event in client.listen():
            print(event.type, event.data)

`AsyncClient` is the same with `await` and `async for`.
"""

from ._async_client import AsyncClient, AsyncStream
from ._client import Client, Stream
from ._errors import Closed, NotifyError, Refused, Unavailable
from ._events import Event
from ._publish import Accepted, Delivered, Item, Rejected
from ._retry import Retry

__all__ = [
    "Accepted",
    "AsyncClient",
    "AsyncStream",
    "Client",
    "Closed",
    "Delivered",
    "Event",
    "Item",
    "NotifyError",
    "Refused",
    "Rejected",
    "Retry",
    "Stream",
    "Unavailable",
]
