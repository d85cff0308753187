"""Who takes part: engines, their formats, and the settings among which each is given its best."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from .works import KINDS

WORKERS = Path(__file__).parent / "workers"
LLAMA_CPP = tuple({"flash": flash, "repack": repack} for flash, repack in product(("on", "off"), repeat=2))
OPENVINO = (
    {"ATTENTION_BACKEND": "PA", "INFERENCE_PRECISION_HINT": "f32"},
    {"ATTENTION_BACKEND": "PA", "INFERENCE_PRECISION_HINT": "bf16"},
    {"ATTENTION_BACKEND": "PA", "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"},
    {"ATTENTION_BACKEND": "SDPA", "INFERENCE_PRECISION_HINT": "f32"},
    {"ATTENTION_BACKEND": "SDPA", "INFERENCE_PRECISION_HINT": "bf16"},
)


@dataclass(frozen=True, slots=True)
class Engine:
    """script: of workers/; formats: by bits of a stored weight; settings: the choices to try; kinds: of works."""

    name: str
    script: str
    formats: dict[int, tuple[str, ...]]
    settings: tuple[dict[str, str], ...] = field(default=({},))
    kinds: tuple[str, ...] = KINDS


ENGINES = {
    e.name: e
    for e in (
        Engine("fastlm", "run_fastlm.py", {32: ("float32",), 16: ("bfloat16",), 8: ("int8",), 4: ("int4",)}),
        Engine(
            "llama.cpp",
            "run_llamacpp.py",
            {32: ("F32",), 16: ("F16", "BF16"), 8: ("Q8_0",), 4: ("Q4_0", "Q4_K_M")},
            LLAMA_CPP,
        ),
        Engine("openvino", "run_openvino.py", {8: ("int8",), 4: ("int4",)}, OPENVINO, KINDS[:2]),
        Engine(
            "ctranslate2",
            "run_ctranslate2.py",
            {32: ("float32",), 16: ("bfloat16",), 8: ("int8", "int8_bfloat16")},
        ),
        Engine("transformers", "run_transformers.py", {32: ("float32",), 16: ("bfloat16",)}, kinds=KINDS[:2]),
        Engine("llama2.c", "run_llama2c.py", {32: ("float32",)}, kinds=KINDS[:1]),
    )
}


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine and where it is: the interpreter of its environment (llama2.c: its binary).

    tag: tells builds of one engine apart.
    """

    engine: str
    tag: str
    place: str

    @classmethod
    def parse(cls, text: str) -> Peer:
        """As on the command line: NAME=PYTHON, or NAME/TAG=PYTHON."""
        name, _, place = text.partition("=")
        engine, _, tag = name.partition("/")
        if engine not in ENGINES or engine == "fastlm" or not place:
            raise ValueError(f"{text}: a peer is NAME=PYTHON, NAME one of {', '.join(list(ENGINES)[1:])}")
        return cls(engine, tag, place)


@dataclass(frozen=True, slots=True)
class Entrant:
    """One engine in one build, with one format and one choice of settings."""

    engine: Engine
    format: str
    bits: int
    settings: dict[str, str]
    build: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.engine.name} {self.format}"

    @property
    def choice(self) -> str:
        """What was chosen for it, in words."""
        words = [f"{key}={value}" for key, value in sorted(self.settings.items())]
        return " ".join([self.build, *words] if self.build else words)

    @property
    def label(self) -> str:
        return f"{self.name} {self.choice}".strip()


def fastlm(bits: int, build: str = "", python: str = sys.executable) -> Entrant:
    """Our own: the build of that interpreter's environment."""
    engine = ENGINES["fastlm"]
    (format,) = engine.formats[bits]
    return Entrant(engine, format, bits, {}, build, (python, str(WORKERS / engine.script)))


def entrants(peers: Sequence[Peer], bits: Sequence[int], names: Sequence[str] = ()) -> list[Entrant]:
    """Every choice of every engine at hand, fastlm first.

    names: only these engines, or "engine format".
    """
    found = []
    for peer in [Peer("fastlm", "", sys.executable), *peers]:
        engine = ENGINES[peer.engine]
        script = str(WORKERS / engine.script)
        is_binary = peer.engine == "llama2.c"
        command = (sys.executable, script, peer.place) if is_binary else (peer.place, script)
        for width in bits:
            for format in engine.formats.get(width, ()):
                if not names or f"{engine.name} {format}" in names or engine.name in names:
                    found += [Entrant(engine, format, width, s, peer.tag, command) for s in engine.settings]
    return found
