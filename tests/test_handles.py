"""Handles of the core in several threads: closed, cancelled and waited for at once; and the interpreter's lock.

Each case runs in a process of its own, since a pointer used after its end may crash it.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
from support import ROOT

from fastlm import _core
from fastlm.arch import registry
from fastlm.arch.spec import encode

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "intermediate_size": 768,
    "vocab_size": 99,
    "max_position_embeddings": 4096,
}
ROUNDS = 40


def build() -> _core.Model:
    model = _core.Model.create(_core.Context(1), encode(registry.read(CONFIG).spec), format="float32")
    for index, tensor in enumerate(model.tensors()):
        model.load_rows(index, 0, np.full((tensor.rows, tensor.cols), 0.01, np.float32))
    model.finish()
    return model


def request(model: _core.Model, seed: int, session: _core.Session | None = None) -> _core.Request:
    """One that reads a prompt, which no other has, for many steps."""
    ids = np.random.default_rng(seed).integers(0, 99, 2000).astype(np.int32)
    return _core.Request(session or model.session(), ids, {"max_tokens": 50, "ignore_eos": True})


def together(*calls: Callable[[], object]) -> None:
    """Call them all, each in a thread, starting at the same time."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        barrier.wait()
        call()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def closed_twice_in_a_step(model: _core.Model) -> None:
    """A neighbour's thread runs steps that both requests are in, so closing has to wait."""
    leader = request(model, 0)
    stop = threading.Event()

    def lead() -> None:
        finish = None
        while finish is None:
            finish = leader.wait(False, stop).finish

    thread = threading.Thread(target=lead)
    thread.start()
    for i in range(ROUNDS):
        other = request(model, 1 + i)
        together(other.close, other.close, other.cancel, other.cancel)
        other.cancel()
    stop.set()
    thread.join()


def closed_while_waited_for(model: _core.Model) -> None:
    for i in range(ROUNDS):
        session = model.session()
        waited, ends = request(model, i, session), []

        def wait(waited: _core.Request = waited, ends: list[object] = ends) -> None:
            try:
                ends.append(waited.wait(True).finish)
            except RuntimeError:  # closed before
                ends.append("closed")

        together(wait, waited.close, waited.cancel)
        assert ends in (["cancelled"], ["closed"])
        session.rewind(session.length)  # it is free again
        session.close()


def closed_by_its_own_flag(model: _core.Model) -> None:
    waited = request(model, 0)

    class Flag:
        def is_set(self) -> bool:
            waited.close()
            return False

    assert waited.wait(True, Flag()).finish == "cancelled"
    with pytest.raises(RuntimeError, match="the request is closed"):
        waited.wait()


def session_closed_in_a_step(model: _core.Model) -> None:
    """By one thread, while others run it, fork it and ask for its length."""
    for i in range(ROUNDS):
        session = model.session()
        ids = np.arange(i, i + 50, dtype=np.int32)

        def quietly(call: Callable[[], object]) -> Callable[[], None]:
            def run() -> None:
                with contextlib.suppress(RuntimeError):  # closed before, or busy
                    call()

            return run

        step = quietly(lambda s=session, ids=ids: _core.forward(model, [_core.Item(s, ids, rows="none")]))
        together(step, quietly(session.fork), quietly(lambda s=session: s.length), session.close, session.close)


CASES = (closed_twice_in_a_step, closed_while_waited_for, closed_by_its_own_flag, session_closed_in_a_step)


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_handles(case: str) -> None:
    ended = subprocess.run([sys.executable, __file__, case], capture_output=True, text=True, timeout=200, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


# Calls that neither wait for another thread nor take long.
AT_ONCE = {
    "flm_version",
    "flm_usable_cores",
    "flm_matrix_bytes",
    "flm_context_create",
    "flm_context_isa",
}
AT_ONCE |= {"flm_context_threads", "flm_context_counters", "flm_model_tensor_count", "flm_model_plan", "flm_model_spec"}
AT_ONCE |= {"flm_sampling_defaults", "flm_request_cancel", "flm_inbox_create", "flm_model_vocabulary"}


def calls_with_the_lock(text: str) -> set[str]:
    """Functions of C that Cython code calls outside of `with nogil` blocks."""
    found: set[str] = set()
    block: int | None = None  # indentation of the block without the lock that the line may be in
    for line in text.splitlines():
        indentation = len(line) - len(line.lstrip())
        if block is not None and line.strip() and indentation <= block:
            block = None
        if line.strip().startswith("with nogil:"):
            block = indentation
        elif block is None:
            found |= set(re.findall(r"\b(flm_\w+)\(", line))
    return found


def test_calls_with_the_lock_are_found() -> None:
    text = "a = flm_a(x)\nwith nogil: flm_b()\nif x:\n    with nogil:\n        y = 1\n\n        flm_c()\n    flm_d()\n"
    assert calls_with_the_lock(text) == {"flm_a", "flm_d"}


def test_waiting_is_without_the_lock() -> None:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "fastlm").glob("*.p[yx][xi]")))
    assert calls_with_the_lock(text) == AT_ONCE


if __name__ == "__main__":
    next(case for case in CASES if case.__name__ == sys.argv[1])(build())
