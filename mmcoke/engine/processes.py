"""The processes of a run: how they meet, and what happens when one of them falls silent."""

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size

__all__ = ['PATIENCE', 'RANK_TIMEOUT', 'RankWatch', 'watched']

PATIENCE = timedelta(hours=12)
"""How long a collective waits, as for an evaluation in one process; a lost one ends it sooner."""

RANK_TIMEOUT = 120.0
"""Seconds of silence after which a process counts as lost, unless the config's ``rank_timeout``."""

LOADING_TIMES = 5
"""How many times that one batch may take to load."""

CONNECTING = 300.0
"""Seconds that processes have to connect, once the group is there."""

GRACE = 5.0
"""Seconds that a process has, at most, to end with its own words."""


class Peer:
    """The other end of a connection that carries lines of text.

    Args:
        connection: to it.
        name: of the process there, for messages.
    """

    def __init__(self, connection: socket.socket, name: str) -> None:
        connection.setblocking(False)
        self.connection, self.name = connection, name
        self.heard, self._rest = time.monotonic(), b''

    def send(self, line: str) -> None:
        # A broken connection shows when it is read; a full one is that of a silent process.
        with suppress(OSError):
            self.connection.send(f'{line}\n'.encode())

    def receive(self) -> list[str]:
        """The lines that have come. EOFError if the process has ended."""
        try:
            data = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        self.heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b'\n')
        return [line.decode() for line in lines]


class RankWatch:
    """Ends this process, with a message, when another one is lost.

    A process whose peer was killed or stopped waits for it in a collective, mostly without a sign.
    So process 0 keeps a connection to each other one, over which both say every second that they
    live. Threads do so: long work of a process (k-means, evaluation, a slow disk) is no silence.
    Lost is a process that closes its connection without a farewell, is silent for ``timeout``
    seconds, or waits for one batch of its data loader for five times as long.

    All processes make it, then :meth:`start` and :meth:`close` it.

    Args:
        timeout: seconds.
        remedy: says how to go on, at the end of a message.
    """

    def __init__(self, timeout: float, remedy: Callable[[], str]) -> None:
        self.timeout, self.remedy = timeout, remedy
        self.verdict: str | None = None
        self.peers: list[Peer] = []
        self._loading_since: float | None = None
        self._closing = threading.Event()

    def start(self) -> None:
        """Connect, and begin to watch."""
        self.peers = listen() if get_rank() == 0 else connect()
        self._rank = get_rank()
        os.register_at_fork(after_in_child=self._hang_up)
        self._thread = threading.Thread(target=self._watch, name='rank watch', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Say farewell."""
        self._closing.set()
        self._thread.join()
        for peer in self.peers:
            peer.send('bye')
        self._hang_up()

    def _hang_up(self) -> None:
        # In workers of data loaders as well: they would keep the connection of a dead process open.
        for peer in self.peers:
            peer.connection.close()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Meanwhile this process waits for its data loader."""
        self._loading_since = time.monotonic()
        yield
        self._loading_since = None

    def lost(self, seconds: float = 10.0) -> str | None:
        """Who is lost, if that shows in a moment: why a collective failed."""
        end = time.monotonic() + seconds
        while self.verdict is None and time.monotonic() < end:
            time.sleep(0.05)
        return self.verdict

    def _watch(self) -> None:
        interval = min(1.0, self.timeout / 10)
        last = time.monotonic()
        while not self._closing.wait(interval):
            now = time.monotonic()
            if now - last > self.timeout / 2:  # this process was stopped itself
                for peer in self.peers:
                    peer.heard = now
            last = now
            if found := self._look(now):
                self._end(found)
                return

    def _look(self, now: float) -> str | None:
        """What is wrong with a process, if anything."""
        since = self._loading_since
        if since is not None and now - since > LOADING_TIMES * self.timeout:
            return (
                f'Process {self._rank} on {socket.gethostname()} (pid {os.getpid()}) has waited '
                f'{LOADING_TIMES * self.timeout:g} s for a batch of its data loader: look at the '
                'disk or network that the images come from.'
            )
        for peer in list(self.peers):
            peer.send('alive')
            try:
                lines = peer.receive()
            except EOFError:
                return f'{peer.name} has ended: its own message is above, or in its log.'
            if 'bye' in lines:
                self.peers.remove(peer)
            elif told := [line for line in lines if line not in ('alive', 'bye')]:
                return told[0]
            elif now - peer.heard > self.timeout:
                return (
                    f'{peer.name} has given no sign of life for {self.timeout:g} s: it was '
                    'stopped, or its machine or network is down.'
                )
        return None

    def _end(self, found: str) -> None:
        """Pass it on; end the process, unless it ends by itself."""
        for peer in self.peers:
            peer.send(found)
        self.verdict = f'{found} The others end, too. {self.remedy()}'
        if not self._closing.wait(min(GRACE, self.timeout)):
            print(f'\n{self.verdict}', file=sys.stderr, flush=True)
            os._exit(1)


def listen() -> list[Peer]:
    """In process 0: a connection to each other process, and to nobody else."""
    token, peers = secrets.token_hex(16), []
    with socket.create_server(('', 0), backlog=get_world_size()) as server:
        server.settimeout(CONNECTING)
        dist.broadcast_object_list([server.getsockname()[1], token])
        while len(peers) < get_world_size() - 1:
            connection, _ = server.accept()
            connection.settimeout(CONNECTING)
            if read_line(connection) == token:
                connection.sendall(f'{own_name()}\n'.encode())
                peers.append(Peer(connection, read_line(connection)))
            else:
                connection.close()
    return peers


def connect() -> list[Peer]:
    """In another process: the connection to process 0."""
    message = [None, None]
    dist.broadcast_object_list(message)
    port, token = message
    connection = socket.create_connection((os.environ['MASTER_ADDR'], port), timeout=CONNECTING)
    connection.sendall(f'{token}\n{own_name()}\n'.encode())
    return [Peer(connection, read_line(connection))]


def own_name() -> str:
    return f'Process {get_rank()} on {socket.gethostname()} (pid {os.getpid()})'


def read_line(connection: socket.socket) -> str:
    """The first line, and no byte more."""
    line = b''
    while not line.endswith(b'\n') and len(line) < 1000 and (byte := connection.recv(1)):
        line += byte
    return line.decode(errors='replace').strip()


@contextmanager
def watched(timeout: float, remedy: Callable[[], str]) -> Iterator[RankWatch]:
    """End, with a message, when another process is lost meanwhile; alone, nothing happens.

    Raises:
        SystemExit: with who was lost, where that made a collective fail.
    """
    watch = RankWatch(timeout, remedy)
    if not (dist.is_initialized() and get_world_size() > 1):
        yield watch
        return
    watch.start()
    try:
        yield watch
    except RuntimeError as error:  # torch's errors of communication, among others
        if is_communication(error) and (lost := watch.lost()):
            raise SystemExit(lost) from None
        raise
    dist.barrier()  # a process that ends while others still talk to it can make them abort
    watch.close()


def is_communication(error: RuntimeError) -> bool:
    """Whether another process may be the reason."""
    words = ('gloo', 'nccl', 'connection', 'socket', 'timed out', 'peer', 'store')
    return isinstance(error, dist.DistError) or any(w in str(error).lower() for w in words)
