"""A small HTTP server on loopback that serves a folder, and fails as it is told to."""

import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("drop", "mute", "cut", "stall", "403", "500", "503", "short", "other", "longer", "slow")


class Server(ThreadingHTTPServer):
    """Serves ``folder``. ``faults[name]`` is what becomes of the next requests for a file, one each, None for none."""

    daemon_threads = False  # so that closing the server waits for its threads

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: dict[str, deque[str | None]] = {}
        self.always: dict[str, str] = {}  # a fault for every request
        self.requests: Counter[str] = Counter()
        self.gate = threading.Event()  # what stalls waits for it
        self.lock = threading.Lock()

    def fault(self, name: str) -> str | None:
        """Count a request, and say what becomes of it."""
        with self.lock:
            self.requests[name] += 1
            waiting = self.faults.get(name)
            return waiting.popleft() if waiting else self.always.get(name)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that went away are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """Only the headers."""
        self._serve(body=False)

    def do_GET(self) -> None:
        """A file of the folder or a range of it, or the fault that is due."""
        self._serve(body=True)

    def _serve(self, *, body: bool) -> None:
        name = self.path.lstrip("/").partition("?")[0]
        fault = self.server.fault(name) if body else None
        path = self.server.folder / name
        if fault == "mute":
            self.server.gate.wait()
        if fault in ("drop", "mute"):
            self.close_connection = True
            return
        if not path.is_file() or fault in ("403", "500", "503"):
            self._answer(int(fault) if path.is_file() else 404, b"no")
            return
        data = path.read_bytes()
        if not body:
            self._head(200, len(data))
            return
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        self._faulty(fault, data[int(first) : int(last) + 1 if last else None])

    def _faulty(self, fault: str | None, data: bytes) -> None:
        half = len(data) // 2
        if fault in ("cut", "stall"):
            self._head(200, len(data))
            self.wfile.write(data[:half])
            self.wfile.flush()
            if fault == "stall":
                self.server.gate.wait()
            self.close_connection = True
        elif fault == "slow":
            self._head(200, len(data))
            for start in range(0, len(data), max(1, len(data) // 8)):
                self.wfile.write(data[start : start + max(1, len(data) // 8)])
                self.wfile.flush()
                self.server.gate.wait(0.05)
        else:
            changed = bytes(255 - byte for byte in data)
            self._answer(200, {"short": data[:half], "other": changed, "longer": data + b"more"}.get(fault or "", data))

    def _answer(self, status: int, data: bytes) -> None:
        self._head(status, len(data))
        self.wfile.write(data)

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")  # a thread would wait for the client's next question
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of ``folder``, until the block ends; with it end all its threads."""
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
