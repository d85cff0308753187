"""What adapters cost: one sequence with a LoRA, and eight sequences with eight, beside the same without, in turns.

python -m benchmarks.adapters --shape B --bits 8 --peer llama.cpp=ENV/bin/python

Random LoRAs on all linear layers. Every engine is a process of its own; in every round each has one turn of each work
with adapters and one without, the order reversed in every second round. llama.cpp has one adapter for all sequences of
a context: its eight sequences have the same one, which is less work than eight. It runs with repacked weights and
without; the better one counts.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import alternation, options, protocol
from .entrants import Entrant, entrants
from .report import markdown, number
from .shapes import write_tensors
from .stored import tensors
from .worker import Unavailable, Worker
from .works import Work

ADAPTERS = 8


@dataclass(frozen=True, slots=True)
class Adapted:
    """A work, with adapters or without."""

    work: Work
    adapted: bool

    def request(self) -> dict[str, Any]:
        return {**self.work.request(), "adapted": self.adapted}


def low_rank(checkpoint: Path, rank: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of A and B of all linear layers."""
    for name, values in tensors(checkpoint / "model.safetensors"):
        if ".layers." in name and values.ndim == 2:
            rows, columns = values.shape
            module = "base_model.model." + name.removesuffix(".weight")
            yield module + ".lora_A.weight", (rank, columns)
            yield module + ".lora_B.weight", (rows, rank)


def write_adapter(folder: Path, checkpoint: Path, rank: int, seed: int) -> Path:
    """A LoRA as PEFT writes it (kept if it is there already)."""
    path = folder / "adapter_model.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear"}
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
        write_tensors(path, list(low_rank(checkpoint, rank)), "float32", seed)
    return folder


def start(taking_part: list[Entrant], plan: protocol.Plan, adapters: list[Path], stack: ExitStack) -> list[Worker]:
    """The processes that can have adapters."""
    folders = [str(path) for path in adapters]
    return [w for w in alternation.start(taking_part, plan, stack) if has_loaded(w, str(plan.folder), folders)]


def has_loaded(worker: Worker, folder: str, adapters: list[str]) -> bool:
    try:
        worker.ask("adapt", folder=folder, adapters=adapters, cache=adapters[0])
    except Unavailable as error:
        protocol.say(f"  {worker.entrant.label}: {error}")
        return False
    return True


def measure(workers: list[Worker], plan: protocol.Plan) -> dict[str, dict[tuple[str, bool], list[float]]]:
    """Tokens per second, round by round, by entrant, work and whether it has adapters; the first round is warm-up."""
    found: dict[str, dict[tuple[str, bool], list[float]]] = {worker.entrant.label: {} for worker in workers}
    turns = [(worker, Adapted(work, adapted)) for worker in workers for work in plan.works for adapted in (False, True)]
    for number_of_round in range(plan.runs + 1):
        for worker, way in turns if number_of_round % 2 else reversed(turns):
            rate = protocol.run(worker, way)
            if number_of_round:
                found[worker.entrant.label].setdefault((way.work.name, way.adapted), []).append(rate)
    return found


def table(found: dict[str, dict[tuple[str, bool], list[float]]], works: Sequence[Work]) -> str:
    """Medians and ranges; of the rounds' ratios with to without, too; and how many times the other's rate ours is."""
    rows = []
    ours = next(iter(found.values()))
    for work in works:
        for label, rates in found.items():
            plain, adapted = (rates[work.name, which] for which in (False, True))
            parts = [b / a for a, b in zip(plain, adapted, strict=True)]
            times = statistics.median(ours[work.name, True]) / statistics.median(adapted)
            rows.append([work.name, label, spread(plain), spread(adapted), spread(parts), f"{times:.2f}"])
    return "\n".join(markdown(["", "", "tokens/s without", "with", "with / without", "fastlm with / it"], rows))


def spread(values: list[float]) -> str:
    middle, low, high = (number(f(values)) for f in (statistics.median, min, max))
    return f"{middle} ({low} - {high})"


def main() -> None:
    parser = options.parser(__doc__, runs=5)
    options.add_peers(parser)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.set_defaults(work=["decode:64", f"batch:{ADAPTERS}"], bits=[8])
    args = options.parse(parser)
    _, folder, cache = options.checkpoint(args)
    places = (cache / f"adapter-{args.rank}-{i}" for i in range(ADAPTERS))
    adapters = [write_adapter(place, folder, args.rank, seed) for seed, place in enumerate(places)]
    plan = protocol.Plan(folder.resolve(), cache, args.work, args.threads, args.runs)
    with ExitStack() as stack:
        taking_part = [e for e in entrants(args.peer, args.bits, args.only) if e.settings.get("flash") != "off"]
        workers = start(taking_part, plan, adapters, stack)
        print(table(measure(workers, plan), plan.works))


if __name__ == "__main__":
    main()
