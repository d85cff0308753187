"""How grammars are compiled: in threads of their own, some at a time, each for so long."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from typing import TypeVar

from fastlm.errors import ModelMemoryError, StateError, UnsupportedError

T = TypeVar("T")
AT_A_TIME = 4  # llguidance cannot be stopped: one that takes too long goes on
SECONDS = 20.0  # after which it is given up
STACK_BYTES = 512 << 20  # of the thread, reserved only: llguidance recurses
_stack_size = threading.Lock()  # which is one of the whole process
_places = threading.BoundedSemaphore(AT_A_TIME)


def compiled(work: Callable[[], T], name: str) -> T:
    """What `work` gives, in a thread whose stack is large enough for grammars of any depth.

    name: what asks for the grammar, in error texts.

    Raises
    ------
    UnsupportedError
        It takes too long. Its thread goes on, since nothing can stop it.
    StateError
        As many as may are compiled already, and none of them ends.
    ModelMemoryError
        No thread can be started.
    """
    future: Future[T] = Future()
    places = _places
    if not places.acquire(timeout=SECONDS):
        raise StateError(f"{name}: {AT_A_TIME} grammars are compiled already: try again later")

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        finally:
            places.release()

    with _stack_size:
        before = threading.stack_size(STACK_BYTES)
        try:
            threading.Thread(target=run, name="fastlm", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            places.release()
            raise ModelMemoryError(f"{name}: no thread can be started that compiles it ({error})") from error
        finally:
            threading.stack_size(before)
    try:
        return future.result(SECONDS)
    except TimeoutError as error:
        text = f"{name}: takes longer than {SECONDS:g} s to compile"
        raise UnsupportedError(text) from error


def _forget() -> None:
    """In a child process: who held a lock or a place stayed with the parent."""
    global _stack_size, _places
    _stack_size, _places = threading.Lock(), threading.BoundedSemaphore(AT_A_TIME)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
