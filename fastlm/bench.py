"""How fast a model is here, for `fastlm bench`: prompt and decoding, what they cost, and what the machine reads."""

from __future__ import annotations

import ctypes
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastlm.arch.spec import MixtureOfExperts
from fastlm.describe import describe
from fastlm.disturbance import LEAST_SECONDS, Disturbance, between, sample
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.results import Drafted, Timings

if TYPE_CHECKING:
    from fastlm.drafts import Draft, Lookup
    from fastlm.model import Model

    Drafts = Callable[[Model], AbstractContextManager[Draft | Lookup | None]]

PROMPT, TOKENS, RUNS = 512, 64, 5
READ_BYTES = 128 << 20  # in a measurement of the read rate: a few milliseconds


def bench(
    load: Callable[[], Model],
    *,
    prompt: int | None = None,
    tokens: int = TOKENS,
    runs: int = RUNS,
    draft: Drafts = lambda model: nullcontext(),
    adapter: str | None = None,
) -> dict[str, Any]:
    """Load a decoder and time it: `runs` times (after a warm-up) a prompt of other tokens, then `tokens` written ones.

    draft: gives what proposes tokens for the model, or None; then each run writes its tokens once more with it, whose
    rates are `drafted`, and `draft` tells how many it proposed in all, and how many were accepted. adapter: of the
    model; then each run writes its tokens once more with it, and these rates are `adapted`.

    Rates are tokens per second of each run; bytes per second for `read`, taken after each run. `cpu_seconds_per_token`
    has the runs of which the system told the processor time, `threads_present` how many threads took part in each, on
    average, and `others_share` what part of the processors' time other processes took meanwhile, where that is known.

    Raises
    ------
    ParameterError
        A number is below 1, or prompt and tokens do not fit the context.
    """
    for name, value in (("prompt", prompt), ("tokens", tokens), ("runs", runs)):
        if value is not None and value < 1:
            raise ParameterError(f"{name} must be at least 1, not {value}")
    before = sample()
    start = time.perf_counter()
    with load() as model, draft(model) as drafts:
        load_seconds = time.perf_counter() - start
        if model.kind != "decoder":
            raise UnsupportedError(f"bench: times decoders; this model is an {model.kind}")
        length = _prompt_length(model, prompt, tokens)
        facts = describe(model)
        weights = weights_per_token(model)
        read = partial(read_bandwidth, weights or facts["memory"]["weight_bytes"], facts["threads"])
        ways: dict[str, dict[str, Any]] = {"decode": {}}
        ways |= {} if drafts is None else {"drafted": {"draft": drafts}}
        ways |= {} if adapter is None else {"adapted": {"adapter": adapter}}
        _runs(model, length, tokens, ways, seed=0)
        peak = peak_bytes()  # before the measuring of reads adds to it
        read()
        done = [(_runs(model, length, tokens, ways, seed=run), read()) for run in range(1, runs + 1)]
        while (after := sample()).wall - before.wall < LEAST_SECONDS:
            read()
    others = between(before, after)
    timed = [found["decode"] for found, _ in done]
    drafted = [found["drafted"].draft for found, _ in done] if "drafted" in ways else []
    return {
        **{name: facts[name] for name in ("model_type", "parameters", "dtype", "kv_dtype", "threads", "isa")},
        "prompt_tokens": length,
        "written_tokens": tokens,
        "load_seconds": load_seconds,
        "weight_bytes": facts["memory"]["weight_bytes"],
        "weight_bytes_per_token": weights,
        "peak_bytes": peak,
        "rates": {
            "prompt": [run.prompt_tokens / run.timings.prompt_seconds for run in timed],
            **{way: [tokens / found[way].timings.decode_seconds for found, _ in done] for way in ways},
            "read": [rate for _, rate in done],
        },
        "draft": _sum(each for each in drafted if each is not None) if drafted else None,
        "cpu_seconds_per_token": {
            "prompt": _known(run.timings.prompt_cpu_seconds / run.prompt_tokens for run in timed),
            "decode": _known((run.timings.cpu_seconds - run.timings.prompt_cpu_seconds) / tokens for run in timed),
        },
        "threads_present": [run.timings.threads for run in timed],
        "others_share": others.share,
        "involuntary_switches": others.switches,
    }


def _sum(drafted: Iterable[Drafted]) -> dict[str, int]:
    accepted, proposed = map(sum, zip(*drafted, strict=True))
    return Drafted(accepted, proposed)._asdict()


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _prompt_length(model: Model, prompt: int | None, tokens: int) -> int:
    room = model.context - tokens - 1
    length = min(PROMPT, room) if prompt is None else prompt
    if not 1 <= length <= room:
        raise ParameterError(f"prompt, tokens: {length} and {tokens} do not fit the context of {model.context}")
    return length


class _Run(NamedTuple):
    prompt_tokens: int  # that no cache knew
    timings: Timings
    draft: Drafted | None


def _runs(
    model: Model, length: int, tokens: int, ways: Mapping[str, Mapping[str, Any]], *, seed: int
) -> dict[str, _Run]:
    """Read a prompt and write so many tokens after the first one; another seed makes a prompt that no cache knows.

    Once for each of the ways, which are parameters of the call.
    """
    ids = [(7 * i + 5 * seed) % model.vocab for i in range(length)]

    def run(way: Mapping[str, Any]) -> _Run:
        done = model.generate(ids, max_tokens=tokens + 1, temperature=0, ignore_eos=True, **way)
        return _Run(length - done.usage.cached_tokens, done.timings, done.draft)

    return {name: run(way) for name, way in ways.items()}


def step_tensors(model: Model) -> list[Any] | None:
    """The weights that a decoding step reads: all but an embedding that is not the head, too.

    None for mixtures of experts, whose steps read different ones.
    """
    decoder = model.spec.decoder
    layers = decoder.layers if decoder else ()
    if any(isinstance(s.mixer, MixtureOfExperts) for layer in layers for s in layer.sublayers):
        return None
    tied = model.spec.tied
    return [t for t in model.engine.core.tensors() if tied or "embed" not in t.name.split(".")]


def weights_per_token(model: Model) -> int | None:
    """Their bytes."""
    tensors = step_tensors(model)
    return None if tensors is None else sum(t.bytes for t in tensors)


def peak_bytes() -> int:
    """Most bytes that this process has had in memory, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read_bandwidth(n_bytes: int, threads: int) -> float:
    """Bytes per second that so many threads read from a buffer of n_bytes, by comparing its halves with the C library.

    The best of three passes.
    """
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    half = max(n_bytes // threads // 2, 4096)
    buffer = np.zeros(2 * half * threads, np.uint8)
    buffer.fill(1)
    passes = READ_BYTES // buffer.nbytes + 1

    def read(thread: int) -> None:
        at = buffer.ctypes.data + 2 * half * thread
        for _ in range(passes):
            compare(at, at + half, half)

    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            start = time.perf_counter()
            list(pool.map(read, range(threads)))
            best = max(best, passes * buffer.nbytes / (time.perf_counter() - start))
    return best


def disturbance_of(found: dict[str, Any]) -> Disturbance:
    """What other processes did while `bench` found this."""
    return Disturbance(found["others_share"], found["involuntary_switches"])


def _ways(found: dict[str, Any]) -> list[str]:
    """What drafting won, and what an adapter costs."""
    lines = []
    for name in ("drafted", "adapted"):
        if rates := found["rates"].get(name):
            times = statistics.median(rates) / statistics.median(found["rates"]["decode"])
            spread = f"({min(rates):,.1f} - {max(rates):,.1f})"
            lines.append(f"  {name:<26}{statistics.median(rates):>10,.1f} tokens/s   {spread}   {times:.2f} times")
    if drafted := found.get("draft"):
        lines[0] += f", {drafted['accepted']} of {drafted['proposed']} proposals accepted"
    return lines


def summary(found: dict[str, Any]) -> str:
    """The same for people: medians and ranges."""

    def line(name: str, what: str) -> str:
        rates, costs = found["rates"][name], found["cpu_seconds_per_token"][name]
        cost = f"   {1000 * statistics.median(costs):.3g} cpu ms/token" if costs else ""
        middle = statistics.median(rates)
        return f"  {what:<26}{middle:>10,.1f} tokens/s   ({min(rates):,.1f} - {max(rates):,.1f}){cost}"

    reads, weights = statistics.median(found["rates"]["read"]), found["weight_bytes_per_token"]
    lines = [
        f"{found['model_type']}, {found['parameters']:,} parameters, {found['dtype']}, keys and values "
        f"{found['kv_dtype']}, {found['threads']} thread(s), {found['isa']}",
        line("prompt", f"prompt of {found['prompt_tokens']}"),
        line("decode", f"{found['written_tokens']} tokens after it"),
        *_ways(found),
        f"  {'threads':<26}{statistics.mean(found['threads_present']):>10.1f} of {found['threads']}",
        f"  {'load':<26}{found['load_seconds']:>10.2f} s",
        f"  {'weights':<26}{found['weight_bytes'] / 1e6:>10,.0f} MB",
        f"  {'most memory':<26}{found['peak_bytes'] / 1e6:>10,.0f} MB",
    ]
    if weights:
        rate = statistics.median(found["rates"]["decode"]) * weights
        share = f"{100 * rate / reads:.0f} % of the {reads / 1e9:.1f} GB/s that these threads read"
        lines.append(f"  {'decoding reads weights at':<26}{rate / 1e9:>10.1f} GB/s, {share}")
    others = disturbance_of(found)
    if others.is_much:
        lost = f"this one's threads were taken off them {others.switches:,} times"
        lines.append(f"warning: {others}, and {lost}; figures are lower than on an idle machine")
    return "\n".join(lines)
