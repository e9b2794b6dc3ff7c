"""Both clients behind one face, and a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Type, Union

import httpx
import pytest

from notify_client import AsyncClient, AsyncStream, Client, Event, _async_client, _client

ROOT = Path(__file__).resolve().parents[3]
READY = 20.0
Handler = Callable[[httpx.Request], httpx.Response]


class Blocking:
    """An `AsyncClient` that is used like a `Client`, so that one test is for both."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *arguments, **named: self._loop.run_until_complete(method(*arguments, **named))

    def listen(self, *arguments: Any, **named: Any) -> BlockingStream:
        return BlockingStream(self._loop, self._client.listen(*arguments, **named))

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        # As asyncio.run does it: what httpx reads by is ended by the loop.
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


class BlockingStream(Iterator[Event]):
    def __init__(self, loop: asyncio.AbstractEventLoop, stream: AsyncStream) -> None:
        self._loop = loop
        self._stream = stream

    @property
    def last_event_id(self) -> Optional[str]:
        return self._stream.last_event_id

    def __next__(self) -> Event:
        try:
            return self._loop.run_until_complete(self._stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        self._loop.run_until_complete(self._stream.close())


Kind = Union[Type[Client], Type[Blocking]]


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    """Each test runs with both clients."""
    return request.param


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    """Nothing is waited for; what would have been is here."""
    waits: List[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(_client, "sleep", waits.append)
    monkeypatch.setattr(_async_client, "sleep", wait)
    return waits


@pytest.fixture
def full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance gives the longest wait that there may be."""
    monkeypatch.setattr("notify_client._retry.random.uniform", lambda low, high: high)


def free_port() -> int:
    """Below the range from which systems take the local ports of outgoing connections: one that is made while the
    server is down could else be given the server's."""
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Process:
    """Something that a test starts and ends."""

    def __init__(self, arguments: List[str], folder: Path) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        self._log = folder / "log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=log, stderr=log)

    def end(self, how: int = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(READY)

    def until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"it does not become ready:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.02)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """The real binary, in development mode, on a NATS with JetStream."""

    def __init__(self, folder: Path, nats: str) -> None:
        self._folder = folder
        self._nats = nats
        self._port = free_port()
        self._binary = os.environ.get("NOTIFY_SERVER_BIN") or str(ROOT / "target/debug/notify-server")
        if not Path(self._binary).is_file():
            pytest.fail(f"{self._binary} is not there; cargo build makes it, or set NOTIFY_SERVER_BIN")
        stream = "stream: { retry: 200ms, ping_interval: 1s }"
        rate = "server: { publish_rate: 200, publish_burst: 1000 }"
        (folder / "config.yml").write_text(f"mode: development\ndata_dir: data\n{stream}\n{rate}\n")
        self._process = self._start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _start(self) -> Process:
        process = Process([self._binary, "--port", str(self._port), "--nats", self._nats], self._folder)
        process.until(self._ready)
        return process

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ready") as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def restart(self, how: int = signal.SIGKILL) -> None:
        self._process.end(how)
        self._process = self._start()

    def end(self) -> None:
        self._process.end()

    def token(self, user: int = 2, ttl: str = "1h", **notify: Any) -> str:
        claim = f"notify={json.dumps(notify or {'publish': ['*'], 'subscribe': ['*'], 'admin': True})}"
        command = [self._binary, "token", "--user", str(user), "--ttl", ttl, "--claim", claim]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder)}
        return subprocess.run(command, cwd=self._folder, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    binary = shutil.which("nats-server")
    if not binary:
        pytest.fail("nats-server is not there; scripts/install-test-tools has it")
    folder = tmp_path_factory.mktemp("nats")
    port = free_port()
    nats = Process([binary, "-js", "-sd", str(folder), "-a", "127.0.0.1", "-p", str(port)], folder)
    try:
        nats.until(lambda: accepts(port))
        server = Server(tmp_path_factory.mktemp("server"), f"nats://127.0.0.1:{port}")
        try:
            yield server
        finally:
            server.end()
    finally:
        nats.end()
