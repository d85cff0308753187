"""Masks for requests: one thread of a context asks grammars what may come next, while the engine computes."""

from __future__ import annotations

import atexit
import itertools
import os
import select
import threading
from contextlib import suppress
from weakref import ReferenceType, WeakKeyDictionary, ref

from fastlm import _core
from fastlm.errors import FastlmError, StateError, UnsupportedError
from fastlm.structured.library import Matcher

LINGER_SECONDS = 1.0  # for which the thread stays when there is nobody to make masks for


class Constraint:
    """The grammar that one request follows.

    Attributes
    ----------
    error
        Why it could not be followed; the request is then cancelled.
    """

    def __init__(self, context: _core.Context, matcher: Matcher) -> None:
        self.error: FastlmError | None = None
        self._context = context
        self._matcher = matcher
        self._number: int | None = None
        self._using = threading.RLock()  # while the request is; again where a collection closes it meanwhile
        self._closed = False

    def attach(self, request: _core.Request) -> None:
        """Make the request's masks from now on, until it is closed or collected."""
        with _lock:
            masker = _maskers.setdefault(self._context, _Masker())
        self._number = masker.add(self._context, request, self)

    def close(self) -> None:
        """Make none any more: nothing uses the request from here but its owner."""
        with self._using:
            self._closed = True
        if self._number is not None and (masker := _maskers.get(self._context)) is not None:
            masker.remove(self._number)

    def end(self, request: _core.Request) -> None:
        """The interpreter ends: nobody makes the request's masks any more."""
        with self._using:
            if not self._closed:
                self.error = StateError("the interpreter ends: nothing makes masks any more")
                request.cancel()

    def forget(self) -> None:
        """In a child process, which has no thread that makes masks."""
        self._using = threading.RLock()
        self._closed = True

    def serve(self, request: _core.Request) -> None:
        """Give the mask that the request wants, if it wants one."""
        with self._using:
            wanted = None if self._closed else request.wanted()
        if wanted is None:
            return
        try:
            bits = self._matcher.after(*wanted)
        except BaseException as error:  # the library's own failures among them: others go on
            self.error = error if isinstance(error, FastlmError) else UnsupportedError(f"llguidance failed: {error!r}")
        with self._using:
            if self._closed:
                return
            if self.error is None:
                request.mask(wanted[0], bits)
            else:
                request.cancel()


class _Masker:
    """The thread of one context. It, and what tells it, are there while there are requests, and a little longer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._served: dict[int, tuple[ReferenceType[_core.Request], Constraint]] = {}
        self._thread: threading.Thread | None = None
        self._inbox: _core.Inbox | None = None
        self._pipe = (-1, -1)
        self._ending = False

    def add(self, context: _core.Context, request: _core.Request, constraint: Constraint) -> int:
        with self._lock:
            if self._ending:
                raise StateError("the interpreter ends: nothing makes masks any more")
            if self._inbox is None:
                self._open(context)
            assert self._inbox is not None
            number = next(self._numbers)
            self._served[number] = (ref(request, lambda _: self.remove(number)), constraint)
            request.tell_masks(self._inbox, number)
            return number

    def remove(self, number: int) -> None:
        self._served.pop(number, None)

    def _open(self, context: _core.Context) -> None:
        try:
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
            inbox = self._inbox = _core.Inbox(context, self._pipe[1])
            self._thread = threading.Thread(target=self._run, args=(inbox, self._pipe[0]), name="fastlm", daemon=True)
            self._thread.start()
        except (OSError, RuntimeError) as error:
            self._close()
            raise StateError(f"nothing can make masks: no thread or no descriptor is left ({error})") from error

    def _run(self, inbox: _core.Inbox, descriptor: int) -> None:
        told = select.poll()
        told.register(descriptor, select.POLLIN)
        while True:
            if told.poll(LINGER_SECONDS * 1000):
                with suppress(BlockingIOError):
                    os.read(descriptor, 1 << 12)
                for number in inbox.take():
                    self._serve(number)
            elif not self._served:
                with self._lock:
                    if not self._served:
                        return self._close()
            if self._ending:
                return None

    def _serve(self, number: int) -> None:
        known, constraint = self._served.get(number, (None, None))
        request = known() if known is not None else None
        if request is not None and constraint is not None:
            constraint.serve(request)

    def _close(self) -> None:
        if self._inbox is not None:
            self._inbox.close()
        for end in self._pipe:
            if end >= 0:
                os.close(end)
        self._inbox = self._thread = None
        self._pipe = (-1, -1)

    def forget(self) -> None:
        """In a child process, which has no such thread, and where a lock of the parent's may be held for ever."""
        for _, constraint in tuple(self._served.values()):
            constraint.forget()
        for end in self._pipe if self._inbox is not None else ():
            os.close(end)

    def end(self) -> None:
        """At the interpreter's end: have the thread return, and wait for that."""
        with self._lock:
            self._ending = True
            thread, served = self._thread, tuple(self._served.values())
        if thread is not None:
            with suppress(BlockingIOError):
                os.write(self._pipe[1], bytes(8))
            thread.join()
        for known, constraint in served:
            if (request := known()) is not None:
                constraint.end(request)


_lock = threading.Lock()
_maskers: WeakKeyDictionary[_core.Context, _Masker] = WeakKeyDictionary()


def _forget() -> None:
    """In a child process: the threads stayed with the parent."""
    global _lock
    _lock = threading.Lock()
    for masker in tuple(_maskers.values()):
        masker.forget()
    _maskers.clear()


def _end() -> None:
    for masker in tuple(_maskers.values()):
        masker.end()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
