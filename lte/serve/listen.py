"""Sockets, and two servers in one process that start and stop together."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from lte.serve.errors import ServeError

logger = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it: of two, each would take them from the other."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def run_both(
    public: tuple[uvicorn.Config, socket.socket],
    admin: tuple[uvicorn.Config, socket.socket] | None,
    stopping: Callable[[], None],
) -> None:
    """Serve on both sockets until SIGINT or SIGTERM; answers under way end, then this returns. A second signal kills.

    The admin port goes last, so that probes and metrics can be read while the public one drains.

    stopping  is called at the first signal
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        asyncio.run(_both(public, admin, stopping))
    finally:
        for number in SIGNALS if main else ():
            signal.signal(number, before[number])


async def _both(
    public: tuple[uvicorn.Config, socket.socket],
    admin: tuple[uvicorn.Config, socket.socket] | None,
    stopping: Callable[[], None],
) -> None:
    front = Server(public[0])
    back = Server(admin[0]) if admin else None

    def stop(number: int) -> None:
        logger.info("%s: finishing what is under way; once more ends at once", signal.Signals(number).name)
        stopping()
        front.should_exit = True
        for other in SIGNALS:
            loop.remove_signal_handler(other)
            signal.signal(other, signal.SIG_DFL)  # not Python's: a loop that is stuck would never see it

    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            loop.add_signal_handler(number, stop, number)
    behind = asyncio.ensure_future(back.serve([admin[1]])) if back and admin else None
    try:
        await front.serve([public[1]])
    finally:
        if back and behind:
            back.should_exit = True
            await behind


def listening(host: str, port: int, setting: str = "port") -> socket.socket:
    """A socket that listens on host and port, taken before the model is loaded; `setting` names another port."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        door = socket.create_server((host, port), family=family, backlog=512)
        # asyncio does it for the sockets that it makes; else an answer's body waits 40 ms for the head's receipt
        door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return door
    except (OSError, OverflowError) as error:  # the second: a port above 65535
        why, other = getattr(error, "strerror", None) or error, port + 1 if port < 65535 else 9000
        raise ServeError(
            f"{host}:{port}: cannot listen there ({why}); choose another with --set {setting}={other}"
        ) from error


def check_exposure(host: str, setting: str, auth: str, locked: bool) -> None:
    """`ServeError` where anyone who reaches `host` could change facts, and nobody has said that this is meant.

    locked  whether keys are asked for
    """
    if locked or is_loopback(host):
        return
    if auth == "none":
        logger.warning("%s can be reached from elsewhere, and no key is asked: who reaches it may change facts", host)
        return
    raise ServeError(
        f"{setting} {host}: can be reached from elsewhere, and there is no key: `lte serve keys create` makes one; "
        "--set auth=none lets anyone in who reaches it"
    )


def is_loopback(host: str) -> bool:
    """Whether an address or name is of this machine alone."""
    try:
        return ipaddress.ip_address(host if ":" in host else socket.gethostbyname(host)).is_loopback
    except (OSError, ValueError):
        return False  # what it is told to listen on fails with a better message
