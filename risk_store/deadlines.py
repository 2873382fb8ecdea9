"""How long a server may take to answer, whatever it does: refuse, answer late, or accept a connection and say nothing.

A server's own timeouts cannot fire for a request that never arrived, and TCP's own take minutes. Within
:func:`answered_by` a connection that takes too long is cut, which ends the driver's wait with an error like any other.
"""

from __future__ import annotations

import errno
import math
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from risk_store.errors import RiskStoreError
from risk_store.watchdog import WATCHDOG

__all__ = [
    "CutOff",
    "NoAnswerInTime",
    "answered_by",
    "ask_for_signs_of_life",
    "cut_off_at",
    "left_until",
    "may_take_its_time",
    "watch_connections",
]


def left_until(deadline: float) -> float:
    """Seconds from now to `deadline` (of ``time.monotonic()``); 0.0 when it is over."""
    return max(0.0, deadline - time.monotonic())


class NoAnswerInTime(TimeoutError):
    """A connection was cut at its deadline. To the driver that looks as if the server had closed it."""

    def __init__(self, cause: BaseException | None = None) -> None:
        super().__init__("the server did not answer in time")
        self.__cause__ = cause


_deadline: ContextVar[float | None] = ContextVar("risk_store_deadline", default=None)


@contextmanager
def answered_by(deadline: float) -> Iterator[None]:
    """Connections that are opened or tested in this block must be there by `deadline` (of ``time.monotonic()``)."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def cut_off_at(deadline: float, raw: Any) -> Iterator[None]:
    """Cuts the driver's connection `raw` at `deadline`, if the block has not ended by then.

    Raises NoAnswerInTime, from what the block then raised; OSError for a connection that is closed already.
    """
    handle = os.dup(_fileno(raw))  # ours: it is no other file's, even if the driver closes its own meanwhile
    call, is_cut = None, False

    def cut() -> None:
        nonlocal is_cut
        is_cut = True
        _shut(handle)

    try:
        call = WATCHDOG.call_at(deadline, cut)
        yield
    except Exception as error:
        told = _told(error, is_cut)
        if told is not error:
            raise told from error
        raise
    finally:
        if call is not None:
            call.cancel()
        os.close(handle)


class CutOff:
    """The same for a connection that is kept: one call of the watchdog serves all of its waits that come meanwhile.

    A call for each would stay in the watchdog's list until its time, some thousands of them, and wake its thread each.
    Raises OSError for a connection that is closed already.

    >>> here, there = socket.socketpair()
    >>> cut = CutOff(here)
    >>> cut.begin(time.monotonic() + 5)
    >>> there.send(b"in time"), here.recv(7)
    (7, b'in time')
    >>> cut.end()
    True
    >>> cut.begin(time.monotonic() + 0.01)
    >>> here.recv(7)
    b''
    >>> cut.close(), here.close(), there.close()
    (None, None, None)
    """

    def __init__(self, raw: Any) -> None:
        self._handle = os.dup(_fileno(raw))
        self._lock = threading.Lock()
        self._deadline: float | None = None  # of the wait that is under way
        self._called_at = math.inf  # when the watchdog will look
        self._is_cut = False
        self._is_closed = False

    def begin(self, deadline: float) -> None:
        """Waits begin that must have come to their :meth:`end` by `deadline`, or the connection is cut."""
        with self._lock:
            self._deadline = deadline
            if deadline < self._called_at:
                self._call_at(deadline)

    def end(self) -> bool:
        """They have ended: nothing is cut for them any more. Whether the connection can be used again."""
        self._deadline = None
        return not self._is_cut

    def told(self, error: BaseException) -> BaseException:
        """`error`, or NoAnswerInTime if the connection was cut, from it."""
        return _told(error, self._is_cut)

    def close(self) -> None:
        """No connection is cut any more."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self._handle)

    def _call_at(self, deadline: float) -> None:
        self._called_at = deadline
        WATCHDOG.call_at(deadline, lambda: self._look(deadline))

    def _look(self, called_at: float) -> None:
        with self._lock:
            if called_at != self._called_at:
                return  # there was another call since, for a shorter wait
            deadline, self._called_at = self._deadline, math.inf
            if deadline is None or self._is_closed:
                return
            if deadline > time.monotonic():
                self._call_at(deadline)
            else:
                self._is_cut = True
                _shut(self._handle)


def _told(error: BaseException, is_cut: bool) -> BaseException:
    """Not of Ctrl-C and a task's cancel, nor of what says already what was wrong."""
    if not is_cut or not isinstance(error, Exception) or isinstance(error, RiskStoreError):
        return error
    return NoAnswerInTime(error)


def _fileno(raw: Any) -> int:
    driver = getattr(raw, "driver_connection", raw)  # behind SQLAlchemy's adapter of an asyncio driver
    if hasattr(driver, "fileno"):
        return int(driver.fileno())
    transport = driver._transport  # asyncpg
    if transport is None or transport.is_closing():
        raise OSError(errno.EBADF, "the connection is closed")
    return int(transport.get_extra_info("socket").fileno())


def _shut(handle: int) -> None:
    duplicate = socket.socket(fileno=os.dup(handle))
    try:
        duplicate.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is cut already
    finally:
        duplicate.close()


def ask_for_signs_of_life(raw: Any, silence_s: int, questions: int) -> None:
    """Has the system ask at the other end of the driver's connection `raw` once nothing came for `silence_s` seconds,
    and lose the connection when for as many more no answer has come to so many `questions`, nor to what was sent."""
    options = {
        "TCP_KEEPIDLE": silence_s,
        "TCP_KEEPINTVL": silence_s // questions,
        "TCP_KEEPCNT": questions,
        "TCP_USER_TIMEOUT": 2 * silence_s * 1000,
    }
    with suppress(OSError), _socket_of(raw) as handle:  # a connection that is lost already tells so itself
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            _set_option(handle, name, value)


@contextmanager
def may_take_its_time(raw: Any) -> Iterator[None]:
    """In this block the other end may take nothing of what is sent on the driver's connection `raw`, as long as it is
    there: a server that waits for a lock in the middle of a COPY."""
    before = 0
    with suppress(OSError), _socket_of(raw) as handle:
        before = _set_option(handle, "TCP_USER_TIMEOUT", 0)
    try:
        yield
    finally:
        with suppress(OSError), _socket_of(raw) as handle:
            _set_option(handle, "TCP_USER_TIMEOUT", before)


def _socket_of(raw: Any) -> socket.socket:
    return socket.socket(fileno=os.dup(_fileno(raw)))


def _set_option(handle: socket.socket, name: str, value: int) -> int:
    """What it was before; 0 where a system has none of it, or the other end is this host itself."""
    option = getattr(socket, name, None)
    if option is None or handle.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    before = handle.getsockopt(socket.IPPROTO_TCP, option)
    handle.setsockopt(socket.IPPROTO_TCP, option, value)
    return before


def watch_connections(engine: sa.Engine) -> None:
    """Makes the engine's connections, new ones and those from its pool, obey :func:`answered_by`."""

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: object, arguments: Any, keywords: Any) -> Any:
        deadline = _deadline.get()
        if deadline is None or dialect.is_async:  # asyncio has its own way to stop waiting
            return None  # SQLAlchemy connects
        return _connected_by(deadline, dialect, lambda: dialect.connect(*arguments, **keywords))

    @event.listens_for(engine, "checkout")
    def test(raw: Any, record: Any, _proxy: object) -> None:
        # SQLAlchemy's own test of a pooled connection (pool_pre_ping) knows no deadline.
        if record.info.pop("fresh", False):
            return
        try:
            is_recent = time.monotonic() < record.info.get("believed_until", 0.0)
            if (
                is_recent and not engine.dialect.is_async and _is_silent(raw, record.info)
            ):  # asyncio reads what comes by itself
                return
            deadline = _deadline.get()
            if deadline is None:
                alive = engine.dialect.do_ping(raw)
            else:
                with cut_off_at(deadline, raw):
                    alive = engine.dialect.do_ping(raw)
        except (engine.dialect.loaded_dbapi.Error, OSError) as error:
            raise exc.DisconnectionError from error
        if not alive:
            raise exc.DisconnectionError

    @event.listens_for(engine, "checkin")
    def note_use(_raw: object, record: Any) -> None:
        record.info["believed_until"] = time.monotonic() + _BELIEVED_S

    @event.listens_for(engine, "connect")
    def note(_raw: object, record: Any) -> None:
        record.info["fresh"] = True


_BELIEVED_S = 1.0
"""For so long after its last use a connection on which the server said nothing is taken to be alive: to ask is a round
trip, a quarter of what an order event costs there. A server that ends a connection says so, or its system does."""


# Where there is one (not on Windows): it is no further file of the process's, as an epoll would be.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


def _is_silent(raw: Any, info: dict[Any, Any]) -> bool:
    """Whether nothing has come on the driver's idle connection `raw`: neither news nor its end.

    `info` is what the pool keeps of the connection.
    """
    handle = _fileno(raw)
    known, selector = info.get("selector", (None, None))
    if known != handle:
        selector = _Selector()
        selector.register(handle, selectors.EVENT_READ)
        info["selector"] = handle, selector
    return not selector.select(0)


def _connected_by(deadline: float, dialect: Any, connect: Callable[[], Any]) -> Any:
    """A new connection; in a thread of its own, since a driver counts its timeout in whole seconds, two at least."""
    ended: list[Any] = []
    failed: list[BaseException] = []
    done = threading.Event()
    given_up = threading.Lock()

    def work() -> None:
        try:
            raw = connect()
        except BaseException as error:
            failed.append(error)
        else:
            with given_up:
                if not done.is_set():
                    ended.append(raw)
                else:
                    raw.close()  # too late: nobody waits any more
        done.set()

    threading.Thread(target=work, name="risk_store connecting", daemon=True).start()
    done.wait(left_until(deadline))
    with given_up:
        done.set()
    if ended:
        return ended[0]
    if failed:
        raise failed[0]
    raise dialect.loaded_dbapi.OperationalError("the server did not answer in time")
