"""Requests of event loops: one thread for each context runs their steps, and their loops are told what is new."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakKeyDictionary

from fastlm import _core
from fastlm.engine import Engine
from fastlm.errors import FastlmError
from fastlm.running import Run

LINGER_SECONDS = 1.0  # for which the thread stays when there is nothing to run
REST = 3.0  # times what a loop spent on what it was told, until it is told again: streams leave time for the rest
MOST_REST = 0.02  # seconds: what else the program did in that turn counts, too
LEAST_REST = 0.001  # seconds; a shorter one is none


class Posted:
    """A run that its loop waits for, by an event that it may share with others.

    Attributes
    ----------
    fresh
        Whether there is something that the loop has not seen.
    """

    def __init__(self, engine: Engine, run: Run, whole: bool, event: asyncio.Event) -> None:
        self.fresh = not run.started
        self.error: FastlmError | None = None
        self._event = event
        self._engine = engine
        self._mailbox: _Mailbox | None = None
        if self.fresh:
            event.set()
            return
        self._mailbox = _mailbox(engine.context)
        engine.on_close.add(self._closed)
        try:
            self._id = self._mailbox.add(self, run, whole)
        except BaseException:
            engine.on_close.discard(self._closed)
            self._mailbox.close_if_empty()
            raise

    def tell(self, error: FastlmError | None = None) -> None:
        """In the loop: there is something new, or an error that leaves nothing to wait for."""
        self.error = self.error or error
        self.fresh = True
        self._event.set()

    def look(self) -> None:
        """The loop looks at what is new."""
        self.fresh = False
        if self.error is not None:
            raise self.error

    def _closed(self) -> None:
        """The model was closed, by whatever thread."""
        if self._mailbox is not None:
            self._mailbox.call(self.tell)

    def close(self) -> None:
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None:
            self._engine.on_close.discard(self._closed)
            mailbox.remove(self._id)


class _Mailbox:
    """What one loop has posted to one context. It is there as long as it holds something."""

    def __init__(self, context: _core.Context, driver: _Driver) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._driver = driver
        self._ids = itertools.count()
        self._posted: dict[int, Posted] = {}
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        self._inbox = _core.Inbox(context, self._pipe[1])
        self._closed = False
        self._resting: asyncio.TimerHandle | None = None
        self._listen()

    def add(self, posted: Posted, run: Run, whole: bool) -> int:
        number = next(self._ids)
        run.post(self._inbox, number, whole)
        self._posted[number] = posted
        self._driver.enter(self._context, self)
        return number

    def remove(self, number: int) -> None:
        del self._posted[number]
        self._driver.leave(self)
        self.close_if_empty()

    def _listen(self) -> None:
        self._resting = None
        self._loop.add_reader(self._pipe[0], self._read)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._pipe[0], 1 << 12)
        begun = time.thread_time()
        for number in self._inbox.take():
            if number in self._posted:
                self._posted[number].tell()
        self._loop.call_soon(self._rest, begun)  # after all who were told

    def _rest(self, begun: float) -> None:
        """Have what comes meanwhile come together: with many streams the loop has less to do, the engine more time."""
        seconds = min(REST * (time.thread_time() - begun), MOST_REST)
        if seconds > LEAST_REST and not self._closed and self._resting is None:
            self._loop.remove_reader(self._pipe[0])
            self._resting = self._loop.call_later(seconds, self._listen)

    def call(self, tell: Callable[..., None], *args: object) -> None:
        """From another thread: have the loop call something."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(tell, *args)

    def fail(self, error: FastlmError) -> None:
        for posted in tuple(self._posted.values()):
            posted.tell(error)

    def close_if_empty(self) -> None:
        if self._posted:
            return
        self._driver.mailboxes.pop(self._loop, None)
        self._inbox.close()
        self._closed = True
        if self._resting is not None:
            self._resting.cancel()
        elif not self._loop.is_closed():
            self._loop.remove_reader(self._pipe[0])
        for end in self._pipe:
            os.close(end)


class _Driver:
    """The thread that leads steps for a context's posted requests, while there are some and a little longer."""

    def __init__(self) -> None:
        self.mailboxes: dict[asyncio.AbstractEventLoop, _Mailbox] = {}
        self._lock = threading.Lock()
        self._posted: dict[_Mailbox, int] = {}
        self._thread: threading.Thread | None = None
        self._context: _core.Context | None = None  # while the thread is there
        self._ending = False

    def enter(self, context: _core.Context, mailbox: _Mailbox) -> None:
        """One more request is posted."""
        with self._lock:
            self._posted[mailbox] = self._posted.get(mailbox, 0) + 1
            if self._thread is None and not self._ending:
                self._context = context
                self._thread = threading.Thread(target=self._run, args=(context,), name="fastlm", daemon=True)
                self._thread.start()

    def leave(self, mailbox: _Mailbox) -> None:
        """One less."""
        with self._lock:
            self._posted[mailbox] -= 1
            if not self._posted[mailbox]:
                del self._posted[mailbox]

    def _run(self, context: _core.Context) -> None:
        while True:
            error = None
            try:
                context.drive(LINGER_SECONDS)
            except FastlmError as raised:
                error = raised
            with self._lock:
                if error is None and self._posted and not self._ending:
                    continue
                self._thread = self._context = None
                waiting = tuple(self._posted)
            if error is not None:
                for mailbox in waiting:
                    mailbox.call(mailbox.fail, error)
            return

    def end(self) -> None:
        """At the interpreter's end: have the thread return, and wait for that."""
        with self._lock:
            self._ending = True
            thread, context = self._thread, self._context
        if thread is not None and context is not None:
            context.interrupt()
            thread.join()


_lock = threading.Lock()
_drivers: WeakKeyDictionary[_core.Context, _Driver] = WeakKeyDictionary()


def _mailbox(context: _core.Context) -> _Mailbox:
    """That of the running loop."""
    with _lock:
        driver = _drivers.setdefault(context, _Driver())
    loop = asyncio.get_running_loop()
    if loop not in driver.mailboxes:
        driver.mailboxes[loop] = _Mailbox(context, driver)
    return driver.mailboxes[loop]


def _forget() -> None:
    """In a child process: the threads, and whoever waited for them, stayed with the parent."""
    global _lock
    _lock = threading.Lock()
    _drivers.clear()


def _end() -> None:
    for driver in tuple(_drivers.values()):
        driver.end()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
