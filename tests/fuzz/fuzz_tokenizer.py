"""tokenizer.json and the small files beside it: a tokenizer that encodes and decodes texts, or typed errors.

    python tests/fuzz/fuzz_tokenizer.py [RUNS [SEED]]

mutates the structure of files of several kinds. The runs are made in a process of their own, which a second of
processor time for one file, or 100 MB, ends: the input is printed then, as it is when anything but a FastlmError comes
out, or when the text that arrives token by token is not the text of all tokens.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastlm.errors import FastlmError, ParameterError
from fastlm.tokenizer.components import MEMBERS, TYPES
from fastlm.tokenizer.load import load_tokenizer
from fastlm.tokenizer.prompts import Prompts
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.weights.source import ModelSource

SECONDS, MEGABYTES = 1.0, 100
TEXTS = [
    "Hello, world! it's 2024 don't \u00e9\u00e8\u4e2d\u6587 \U0001f600\U0001f600 <s>a</s> ",
    "a" * 300,
    " " * 200 + "x",
    "ab" * 120 + "!",
    "\n\t \r\n\x00\x07\u2581\u2581 <unk>[CLS]  e\u0301\ufb01\u0130",
    "",
]
WORDS = [
    "a",
    "b",
    "ab",
    "\u00e9",
    "\u2581a",
    "##b",
    "<0x41>",
    "<unk>",
    "<s>",
    "b</w>",
    " ",
    "hello",
    "\u0120a",
    "\u4e2d",
    ".",
]
PATTERNS = [
    r"\s+",
    r"(a+)+$",
    r"(a|a)*b",
    r" ?\p{L}+|\s+(?!\S)|\s+",
    r"a*a*a*b",
    "",
    "(",
    r"(?:a?){40}a{40}",
    r"\p{N}{1,3}",
    r"[^\r\n]*(?=b)",
    r"^|$|\b",
    r"x*",
    ".",
]
SCALARS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 255, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, 10**30, 0.5, -1.5, 1e308, 1e999),
    *("", "x", "a", "\u00e9", "\ud800", "\u2581", "a" * 3000, "always", "first", "Isolated", "Removed", "</s>"),
    *([], {}, ["a", 1], ["a b"], [["a", "b"]], {"String": ""}, {"String": "a"}, {"Regex": "a+"}, {"a": 0}),
]


def base(model: dict[str, Any], **stages: Any) -> dict[str, Any]:
    """A tokenizer.json."""
    added = [
        {
            "id": 0,
            "content": "<unk>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        },
        {
            "id": 1,
            "content": "<s>",
            "single_word": False,
            "lstrip": True,
            "rstrip": True,
            "normalized": True,
            "special": True,
        },
    ]
    empty = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
    frame = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    return {**frame, **empty, **stages, "model": model}


IDS = {word: i for i, word in enumerate(["<unk>", "<s>", *(w for w in WORDS if w not in ("<unk>", "<s>"))])}
BPE = {
    "type": "BPE",
    "dropout": None,
    "unk_token": "<unk>",
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "vocab": IDS,
    "merges": ["a b"],
}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}
SPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
BACK = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
FILES = [
    base(BPE, pre_tokenizer=BYTES, decoder=BYTES, post_processor=TEMPLATE),
    base(
        {**BPE, "byte_fallback": True, "merges": [["a", "b"]]},
        normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, REPLACE]},
        decoder={
            "type": "Sequence",
            "decoders": [
                BACK,
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        post_processor=TEMPLATE,
    ),
    base(
        {**BPE, "end_of_word_suffix": "</w>"},
        normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "BPEDecoder", "suffix": "</w>"},
    ),
    base(
        {
            "type": "WordPiece",
            "unk_token": "<unk>",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": IDS,
        },
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "StripAccents"}],
        },
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "Whitespace"}, {"type": "Digits", "individual_digits": True}],
        },
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        post_processor={"type": "BertProcessing", "sep": ["<s>", 1], "cls": ["<unk>", 0]},
    ),
    base(
        {"type": "Unigram", "unk_id": 0, "vocab": [[w, -float(i)] for w, i in IDS.items()], "byte_fallback": False},
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Nmt"}, {"type": "Strip", "strip_left": True, "strip_right": True}],
        },
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, SPACE]},
        decoder=SPACE,
        post_processor={"type": "Sequence", "processors": [TEMPLATE, BYTES]},
    ),
    base(
        {"type": "WordLevel", "unk_token": "<unk>", "vocab": IDS},
        normalizer={"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": r"\p{L}+|\d"}, "behavior": "Isolated", "invert": False},
                {"type": "Punctuation", "behavior": "Isolated"},
                {"type": "CharDelimiterSplit", "delimiter": "-"},
                {"type": "FixedLength", "length": 5},
                {"type": "UnicodeScripts"},
            ],
        },
        decoder={"type": "CTC", "pad_token": "<unk>", "word_delimiter_token": "|", "cleanup": True},
        post_processor={
            "type": "RobertaProcessing",
            "sep": ["<s>", 1],
            "cls": ["<s>", 1],
            "trim_offsets": True,
            "add_prefix_space": True,
        },
    ),
]
CONFIGS: list[dict[str, Any]] = [
    {},
    {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, "bos_token": "<s>"},
    {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": True,
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
    },
    {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "clean_up_tokenization_spaces": True},
    {"tokenizer_class": "T5Tokenizer", "extra_ids": 3, "additional_special_tokens": ["<x>"]},
    {"added_tokens_decoder": {"0": {"content": "<unk>", "special": True}, "30": {"content": "<y>", "rstrip": True}}},
]


class Files(ModelSource):
    """A model that has a tokenizer only."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.path = Path("model")
        self._files = files

    def describe(self, name: str) -> str:
        return name

    def read(self, name: str) -> bytes | None:
        return self._files.get(name)

    def build(self, config: object, builder: object) -> Any:
        raise NotImplementedError


def one_input(files: dict[str, bytes]) -> bool:
    """Load a tokenizer and use it; whether it could be loaded."""
    try:
        tokenizer = load_tokenizer(Files(files))
    except FastlmError as error:
        assert len(str(error)) < 1000 and str(error)
        return False
    assert tokenizer is not None
    prompts = Prompts(tokenizer, 40)
    for i, text in enumerate(TEXTS):
        try:
            ids = tokenizer.encode(text, special=i % 2 == 0, start=i % 3 > 0)
            assert all(0 <= token < 2**32 for token in ids)
            prompts.of_text(text)
        except ParameterError:
            continue
        check_text(tokenizer, ids)
    check_text(tokenizer, [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 0, 11, 12, 13, 14, 15, 16, 99])
    return True


def check_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Token by token, the text is what it is at once."""
    try:
        whole = tokenizer.decode(ids)
    except ParameterError:
        return
    pieces = [piece for token in ids if (piece := tokenizer.piece_of(token)) is not None]
    if pieces:
        pipeline = tokenizer.pipeline()
        streamed = "".join([*(pipeline.push([piece]) for piece in pieces), pipeline.end()])
        assert streamed == whole, (streamed, whole)
    if (table := tokenizer.table) is not None:
        data = b"".join(table.pieces[i] for i in ids if i < len(table.pieces) and not table.special[i])
        printed = data[table.strip_first_space and data.startswith(b" ") :].decode("utf-8", "replace")
        assert printed == whole or "\ufffd" in whole, (printed, whole)


# ---- mutations ------------------------------------------------------------------------------------


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def part(draw: random.Random, stage: str, depth: int = 0) -> Any:
    """A random part of a stage, mostly well formed."""
    kind = draw.choice([*TYPES[stage]])
    found: dict[str, Any] = {"type": kind}
    for field, (fits, _) in TYPES[stage][kind].items():
        name = field.rstrip("?")
        if name == MEMBERS[stage]:
            found[name] = [part(draw, stage, depth + 1) for _ in range(draw.randrange(4) if depth < 3 else 0)]
        elif name == "pattern":
            found[name] = {"Regex": draw.choice(PATTERNS)} if draw.random() < 0.6 else {"String": draw.choice(WORDS)}
        elif draw.random() < 0.9:
            choices = [v for v in [*SCALARS, *WORDS, "Contiguous", "MergedWithNext", "never", 3, ["<s>", 1]] if fits(v)]
            found[name] = draw.choice(choices) if choices else TEMPLATE.get(name)
    return found


def mutate(draw: random.Random, whole: dict[str, Any]) -> None:
    """One change of a tokenizer.json, or of another file, in place."""
    kind = draw.randrange(9)
    if kind < 2 and "model" in whole:
        stage = draw.choice([*TYPES])
        whole[stage] = part(draw, stage)
        return
    everywhere = [*places(whole)]
    if not everywhere:
        whole[draw.choice(WORDS)] = draw.choice(SCALARS)
        return
    container, key = draw.choice(everywhere)
    if kind == 2:
        container[key] = copy.deepcopy(draw.choice(SCALARS))
    elif kind == 3:
        del container[key]
    elif kind == 4:
        other, name = draw.choice(everywhere)
        container[key] = copy.deepcopy(other[name])
    elif kind == 5 and isinstance(container, dict):
        container[draw.choice([*WORDS, "type", "vocab", "id", "content"])] = copy.deepcopy(draw.choice(SCALARS))
    elif kind == 6 and isinstance(container, list):
        container.extend(copy.deepcopy(draw.choice([container, SCALARS])))
    elif kind == 7 and isinstance(container[key], str):
        container[key] = draw.choice([container[key] * draw.choice([2, 50, 400]), *WORDS, *PATTERNS])
    elif isinstance(container[key], int):
        container[key] = draw.choice([container[key] + 1, -container[key], container[key] << 16, 10**6])


def mutated(draw: random.Random) -> dict[str, bytes]:
    """The files of a tokenizer, changed."""
    whole, config = copy.deepcopy(draw.choice(FILES)), copy.deepcopy(draw.choice(CONFIGS))
    for _ in range(draw.randint(1, 3)):
        with contextlib.suppress(RecursionError):  # it would copy what is too deep already
            mutate(draw, whole)
    if draw.random() < 0.3:
        mutate(draw, config)
    data = json.dumps(whole, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    if draw.random() < 0.05:
        at = draw.randrange(len(data))
        data = data[:at] + draw.choice([b"", b'"', b"[" * 80, b"\xff", b"1e5"]) + data[at + draw.randrange(3) :]
    return {"tokenizer.json": data, "tokenizer_config.json": json.dumps(config).encode()}


# ---- runs -----------------------------------------------------------------------------------------


def runs_here(count: int, seed: int, note: Path) -> None:
    """The runs of a process that may not survive them: the note holds the input."""
    draw = random.Random(seed)
    loaded = sum(one_input({"tokenizer.json": json.dumps(whole).encode()}) for whole in FILES)
    assert loaded == len(FILES)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    for _ in range(count):
        files = mutated(draw)
        note.write_text(repr(files))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        loaded += one_input(files)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        assert grown < MEGABYTES, f"{grown} MB"
    print(f"{count} files, {loaded} of them loaded")


def runs(count: int, seed: int) -> str:
    """Runs in a process of their own; returns what it says, raises if it does not end well."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "input"
        command = [sys.executable, __file__, str(count), str(seed), str(note)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise AssertionError(f"status {ended.returncode}: {ended.stderr[-3000:]}\nthe input: {note.read_text()}")
    return ended.stdout


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:3]]
    if len(sys.argv) > 3:
        runs_here(*numbers, Path(sys.argv[3]))
    else:
        print(runs(*[*numbers, *(20_000, 1)[len(numbers) :]]))
