"""A wire between client and server that can be cut, slowed down, or made to break off."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

CHUNK = 1 << 14


@dataclass
class Wire:
    """Forwards what comes to `port` to a server on loopback, as well as it is told to."""

    server: int
    port: int = 0
    down: bool = False
    """Every connection, old and new, is closed at once."""
    seconds_a_chunk: float = 0.0
    """How long the server's answers take, for each CHUNK of bytes."""
    breaks: list[int] = field(default_factory=list)
    """The next connections break off after so many bytes of the server's, one each."""
    broken: int = 0
    """Connections that did."""
    refused: int = 0

    def _listen(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self.down:
                self.refused += 1
                return
            with socket.create_connection(("127.0.0.1", self.server)) as server:
                limit = self.breaks.pop(0) if self.breaks else None
                back = threading.Thread(target=self._pass, args=(client, server, None), daemon=True)
                back.start()
                self._pass(server, client, limit)

    def _pass(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while (chunk := source.recv(CHUNK)) and not self.down:
                if limit is not None and passed + len(chunk) > limit:
                    sink.sendall(chunk[: limit - passed])
                    self.broken += 1
                    break
                passed += len(chunk)
                time.sleep(self.seconds_a_chunk)
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def wire_to(server: int) -> Iterator[Wire]:
    """A wire to a server's port, for the time of a block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire(server, listener.getsockname()[1])
        threading.Thread(target=wire._listen, args=(listener,), daemon=True).start()
        yield wire
        listener.shutdown(socket.SHUT_RDWR)
