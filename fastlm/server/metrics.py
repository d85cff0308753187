"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

from fastlm._core import Context
from fastlm.model import Model
from fastlm.results import Drafted, Usage

BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # seconds
Labels = tuple[tuple[str, str], ...]


class Histogram:
    """Durations, by upper bounds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        below = 0
        for bound, count in zip((*BOUNDS, "+Inf"), self.counts, strict=True):
            below += count
            yield _line(f"{name}_bucket", (*labels, ("le", str(bound))), below)
        yield _line(f"{name}_sum", labels, self.total)
        yield _line(f"{name}_count", labels, below)


class Metrics:
    """Counters of one server; used in its loop only."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.durations: dict[str, Histogram] = {}
        self.first_tokens: dict[str, Histogram] = {}
        self.in_progress = 0

    def answered(self, path: str, status: int, seconds: float) -> None:
        self.requests[path, status] += 1
        self.durations.setdefault(path, Histogram()).add(seconds)

    def first_token(self, model: str, seconds: float) -> None:
        self.first_tokens.setdefault(model, Histogram()).add(seconds)

    def used(self, model: str, usage: Usage) -> None:
        self.tokens[model, "prompt"] += usage.prompt_tokens
        self.tokens[model, "completion"] += usage.completion_tokens
        self.tokens[model, "cached"] += usage.cached_tokens

    def drafted(self, model: str, draft: Drafted) -> None:
        self.tokens[model, "proposed"] += draft.proposed
        self.tokens[model, "accepted"] += draft.accepted

    def text(self, models: Mapping[str, Model]) -> str:
        return "\n".join([*self._own(), *_of_models(models)]) + "\n"

    def _own(self) -> Iterator[str]:
        yield from _head("fastlm_requests_total", "counter", "Requests that were answered.")
        for (path, status), n in sorted(self.requests.items()):
            yield _line("fastlm_requests_total", (("path", path), ("status", str(status))), n)
        yield from _head("fastlm_requests_in_progress", "gauge", "Requests that are answered, or wait for their turn.")
        yield _line("fastlm_requests_in_progress", (), self.in_progress)
        yield from _head("fastlm_request_seconds", "histogram", "From a request's body to the end of its answer.")
        for path, times in sorted(self.durations.items()):
            yield from times.lines("fastlm_request_seconds", (("path", path),))
        yield from _head(
            "fastlm_first_token_seconds", "histogram", "From a request's body to the first token of a stream."
        )
        for model, times in sorted(self.first_tokens.items()):
            yield from times.lines("fastlm_first_token_seconds", (("model", model),))
        what = "Tokens: of prompts, of them found in the cache, written; proposed by drafts, of them accepted."
        yield from _head("fastlm_tokens_total", "counter", what)
        for (model, kind), n in sorted(self.tokens.items()):
            yield _line("fastlm_tokens_total", (("model", model), ("kind", kind)), n)


def _of_models(models: Mapping[str, Model]) -> Iterator[str]:
    """Of contexts, by the first of their models."""
    contexts: dict[int, tuple[str, Context]] = {}
    for name, model in models.items():
        contexts.setdefault(id(model.engine.context), (name, model.engine.context))
    found = [(name, context.counters()) for name, context in contexts.values()]
    for key, what in (("forwards", "Steps that were run."), ("step_seconds", "Time of these steps.")):
        metric = f"fastlm_{'steps' if key == 'forwards' else key}_total"
        yield from _head(metric, "counter", what)
        for name, counters in found:
            value = counters[key]
            assert not isinstance(value, list)
            yield _line(metric, (("model", name),), value)


def _head(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} {kind}"


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
