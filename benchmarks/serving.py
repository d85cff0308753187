"""A server under load: many clients at a time, whose answers must be what the model gives each prompt alone.

python benchmarks/serving.py [--clients 64] [--seconds 60] [--model MODEL] [--tokens 48] [--whole] [--peer PID:PORT]

Tells the tokens a second of all clients together, beside those of `Model.batch` with as many requests at a time; the
time to the first token (from sending the request); the share of processors that server and clients took; and what
memory the server held, every ten seconds. The clients are a process of their own (clients.py).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import fastlm

NAMES = ("Lily", "Tom", "Ben", "Sue", "Max", "Mia")
THINGS = ("a red ball", "two cats", "the old tree", "a big dog", "her friend", "some bread", "a tiny boat")
DISTINCT = 256  # prompts, of which each is also asked alone
JOB = ("tokens", "clients", "seconds", "whole")


def prompts_of(n: int) -> list[str]:
    """As many, of one to six sentences."""
    draw = random.Random(7)

    def sentence() -> str:
        return f"{draw.choice(NAMES)} saw {draw.choice(THINGS)} and {draw.choice(THINGS)}."

    return [f"Story {i}. " + " ".join(sentence() for _ in range(draw.randint(1, 6))) for i in range(n)]


@contextmanager
def serving(args: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """`fastlm serve` in a process of its own: its process id and port."""
    path = Path(args.model).absolute() if args.model else Path(fastlm.__file__).parent / "box" / "box.flm"
    command = [sys.executable, "-m", "fastlm", "serve", f"m={path}", "--port", "0"]
    command += ["--threads", str(args.threads), "--dtype", args.dtype]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=sys.prefix)
    assert process.stderr is not None
    found = re.search(r"http://[\d.]+:(\d+)", process.stderr.readline())
    assert found is not None, "the server did not start"
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        yield process.pid, int(found[1])
    finally:
        process.terminate()
        process.wait(150)


def load(port: int, name: str, texts: Mapping[str, str | None], args: argparse.Namespace) -> dict[str, Any]:
    """What clients in a process of their own saw; see clients.py."""
    job = {"port": port, "model": name, "texts": texts, **{k: getattr(args, k) for k in JOB}}
    command = [sys.executable, str(Path(__file__).with_name("clients.py"))]
    done = subprocess.run(command, input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measured(
    pid: int, port: int, name: str, texts: Mapping[str, str | None], args: argparse.Namespace
) -> dict[str, Any]:
    """What clients see of a server, also printed."""
    done = threading.Event()
    memory, cpu = watched(pid, done), processor_seconds(pid)
    seen = load(port, name, texts, args)
    done.set()
    told(seen, [*memory, resident(pid)], processor_seconds(pid) - cpu)
    return seen


def batch_rate(model: fastlm.Model, prompts: Sequence[str], args: argparse.Namespace) -> float:
    """Tokens a second of `Model.batch`, with as many at a time."""
    begun, tokens = time.monotonic(), 0
    while time.monotonic() - begun < min(args.seconds, 10):
        for at in range(0, len(prompts), args.clients):
            done = model.batch(prompts[at : at + args.clients], max_tokens=args.tokens, temperature=0)
            tokens += sum(len(one.token_ids) for one in done)
    return tokens / (time.monotonic() - begun)


def resident(pid: int) -> int:
    """Megabytes that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) // 1024 if found else 0


def processor_seconds(pid: int) -> float:
    """Of the processors, that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watched(pid: int, done: threading.Event) -> list[int]:
    """What memory the process holds, now and every ten seconds."""
    found = [resident(pid)]

    def watch() -> None:
        while not done.wait(10):
            found.append(resident(pid))

    threading.Thread(target=watch, daemon=True).start()
    return found


def told(seen: Mapping[str, Any], memory: Sequence[int], cpu: float) -> None:
    """Print what was seen."""
    seconds, firsts, failures = seen["seconds"], seen["firsts"], seen["failures"]
    print(f"{seconds:.0f} s: {seen['requests']:,} requests, {len(failures)} failures")
    print(f"{seen['tokens'] / seconds:,.0f} tokens/s; processors: server {cpu / seconds:.2f}, ", end="")
    print(f"clients {seen['cpu'] / seconds:.2f}; memory, MB: {' '.join(map(str, memory[:: len(memory) // 12 + 1]))}")
    if len(firsts) > 1:
        shares = quantiles(firsts, n=100)
        print(f"first token: p50 {1000 * shares[49]:.0f} ms, p99 {1000 * shares[98]:.0f} ms")
    for failure in failures[:5]:
        print(failure)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/serving.py", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64, metavar="N", help="at a time (64)")
    parser.add_argument("--seconds", type=float, default=60, metavar="N", help="that they go on asking (60)")
    parser.add_argument("--tokens", type=int, default=48, metavar="N", help="of each answer (48)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the model (1)")
    parser.add_argument("--dtype", default="auto", help="of its matrices (auto)")
    parser.add_argument("--model", metavar="MODEL", help="a folder or .flm file; default: the packaged one")
    parser.add_argument("--whole", action="store_true", help="answers in one piece; else streams")
    parser.add_argument(
        "--peer", metavar="PID:PORT", help="another server that runs already, whose texts are not judged"
    )
    args = parser.parse_args()
    prompts = prompts_of(DISTINCT)
    if args.peer:
        pid, port = map(int, args.peer.split(":"))
        seen = measured(pid, port, "peer", dict.fromkeys(prompts), args)
        return 0 if seen["requests"] else 1
    with fastlm.load(args.model, dtype=args.dtype, threads=args.threads) as model:
        texts = {prompt: model.generate(prompt, max_tokens=args.tokens, temperature=0).text for prompt in prompts}
        alone = batch_rate(model, prompts, args)
    with serving(args) as (pid, port):
        seen = measured(pid, port, "m", texts, args)
    print(f"batch: {alone:,.0f} tokens/s; the server gives {seen['tokens'] / seen['seconds'] / alone:.2f} of it")
    return 1 if seen["failures"] or not seen["requests"] else 0


if __name__ == "__main__":
    sys.exit(main())
