"""Regular expressions of tokenizers: those that models use are taken, those that can run away are not."""

from __future__ import annotations

import random
import time

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from fastlm.tokenizer.pattern_syntax import PatternError
from fastlm.tokenizer.patterns import judge

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
WORDS = rf"{BEFORE}[{UPPER}]*[{LOWER}]+{CONTRACTIONS}?|{BEFORE}[{UPPER}]+[{LOWER}]*{CONTRACTIONS}?"
PUBLISHED = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}",
    "Qwen 2": rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}",
    "o200k": rf"{WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}",
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s"
    ),
    "Kimi": (
        rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]*[{LOWER}&&[^\p{{Han}}]]+{CONTRACTIONS}?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]+[{LOWER}&&[^\p{{Han}}]]*{CONTRACTIONS}?|\p{{N}}{{1,3}}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
    ),
    "DeepSeek 3": (
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        rf"|{SPACES}"
    ),
    "DeepSeek's Han": "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "DeepSeek coder's spaces": r"\s+$",
    "DeepSeek coder's letters": "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u0370-\u0373\u1e00-\u1f15]+",
    "BLOOM": " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+",
    "Falcon": "[0-9][0-9][0-9]",
    "CLIP": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "EXAONE's line ends": r"(?:\r?\n)+(?!\r?\n)",
    "groups of digits": r"\d{1,3}(?=(?:\d{3})*\b)",
    "groups of digits, behind": r"(?<=\d)(?=(\d{3})+(?!\d))",
    "SMILES": r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>|\*|\$|\%[0-9]{2}|[0-9])",
    "runs of spaces": " {2,}",
    "spaces around": r"\A +| +\z",
    "the first space": r"\A" + "\u2581",
    "words": r"\w+|[^\w\s]+",
    "addresses": r"\w+@\w+\.\w+",
    "numbers with units": r"\d+\s+\d+[a-z]",
    "three groups": r"(?:\d+,){3}x",
    "without regard to case": (
        r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[^\r\n\p{L}\p{N}]?\p{L}+|\w+@\w+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
    ),
}


@pytest.mark.parametrize("pattern", PUBLISHED.values(), ids=PUBLISHED)
def test_published(pattern: str) -> None:
    tokenizers.Regex(pattern)
    judge(pattern)


RUNAWAYS = [
    *(r"(a+)+$", r"(a|a)*b", r"(a|aa)+$", r"(.*)*x", r"(\w+\s?)*$", r"(a*)*b", r"(?:x+x+)+y", r"(?:a|b|ab)*c"),
    *(r"(?:a?){30}a{30}", r"a?a?a?a?a?a?a?a?a?a?aaaaaaaaaa", r"(?:a{1,100}){1,100}b", r"(?=(a+)+$)a", r"(?i:A|a)*b"),
    *(r"a*a*a*a*b", r"\s*\s*$", r"[\s\S]*[\s\S]*z", r".*.*=.*;", r"\p{L}*\w*!", r"(\p{L}+|\d+|\w+)*$"),
    *(r"(?:[\p{Han}]|[\p{Hiragana}])*x", r"(?:[^\p{Han}]|[^\p{Thai}])*x", r"(?:(?=a*b)a)*c", r"(?:(?:a|b)*c?)*d"),
    *(r"a*(?=a*b)", r"a*(?>a*)b", r"a*a*+b", r"(?:a*){3}b", r"(?:xa*)a*b", r"(?:a*b?){2}c", r"\s*(?!\s*x)\S"),
    r"(a|a)(a|a)(a|a)(a|a)(a|a)(a|a)(a|a)(a|a)b",
    # without regard to case: one character stands for several, several for one, and a third case for both
    *("(?i:(?:\u00df|s)+)$", "(?i)(?:ss|[^a-z])+$", "(?i)(?:ff|[^a-z])+$", r"(?i)(?:[\p{L}]|ss)+$"),
    *("(?i)(?:[\u0430-\u0450]|[\u0400-\u0420])+$", "(?i)(?:k|[\u2100-\u2130])+$"),
]


@pytest.mark.parametrize("pattern", RUNAWAYS)
def test_what_can_run_away(pattern: str) -> None:
    with pytest.raises(PatternError, match="can run away"):
        judge(pattern)


UNREADABLE = [
    *(
        "(",
        ")",
        "[",
        "*",
        "a**b)",
        "[z-a]",
        "a{100000}",
        r"\p{L",
        r"(a*)\1*b",
        r"(?<n>a)\g<n>",
        r"(?~ab)",
        r"\x{110000}",
    ),
    *("(" * 5000 + ")" * 5000, "[" * 100 + "]" * 100, "(?:" * 40 + "a" + ")" * 40, "a" * 30_000, "(?(1)a|b)", "\\"),
]


@pytest.mark.parametrize("pattern", UNREADABLE, ids=range(len(UNREADABLE)))
def test_what_is_not_read(pattern: str) -> None:
    with pytest.raises(PatternError):
        judge(pattern)


NESTED = "a"
for _ in range(30):
    NESTED = f"(?:{NESTED}){{2}}"
LARGE = {
    "nested counts": (NESTED, "repetitions written out"),
    "nested counts of nothing, in a loop": ("(?:" * 9 + "$" + "){7}" * 8 + ")*x", "repetitions written out"),
    "many loops": ("".join(f"{chr(0x4E00 + i)}*" for i in range(1500)) + "x", "at most 2,000"),
    "long": ("a" * 5001, "at most 5,000"),
    "counts of counts": ("a" + "{1}" * 100, "too deeply"),
}


@pytest.mark.parametrize(("pattern", "words"), LARGE.values(), ids=LARGE)
def test_what_is_too_large(pattern: str, words: str) -> None:
    with pytest.raises(PatternError, match=words):
        judge(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "".join(chr(0x4E00 + 3 * i) for i in range(2500)) + r"\w\W\s" * 400,
        "(?i)" + "".join(chr(c) for c in range(0x400, 0x52F)) + "[a-z]." * 700,
        "".join(f"[^{chr(0x4E00 + 3 * i)}]" for i in range(1200)),
        "(?:" * 30 + "ab" * 900 + ")" * 30,
    ],
    ids=range(4),
)
def test_large_ones_are_judged_at_once(pattern: str) -> None:
    begun = time.process_time()
    assert judge(pattern).size <= 5000
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"\s+", 1),
        (" {2,}", 2),
        (r"\A +| +\z", 1),
        ("x*", 0),
        (r"(?:ab|c)d?", 1),
        (r"\bword\b", 4),
        ("", 0),
        ("(?=a)", 0),
    ],
)
def test_shortest_match(pattern: str, expected: int) -> None:
    assert judge(pattern).shortest == expected


def random_pattern(draw: random.Random, depth: int = 0) -> str:
    def atom() -> str:
        if depth > 2 or draw.random() < 0.7:
            return draw.choice(
                ["a", "b", " ", "1", r"\s", r"\S", r"\w", ".", r"\p{L}", "[ab]", "[^a]", "$", r"\b", r"(?!\S)"]
            )
        return draw.choice(["(?:%s)", "(%s)", "(?>%s)", "(?=%s)", "(?!%s)"]) % random_pattern(draw, depth + 1)

    def item() -> str:
        return atom() + draw.choice(["", "", "", "*", "+", "?", "{1,3}", "{2}", "{0,20}", "*?", "++", "{9}"])

    branches = ["".join(item() for _ in range(draw.randrange(1, 4))) for _ in range(draw.choice([1, 1, 2, 3]))]
    return "|".join(branches)


def test_what_is_taken_ends() -> None:
    """Random patterns that pass are tried on texts that make engines run away: the timeout is the test."""
    draw, taken, refused = random.Random(3), 0, 0
    trying = ["a" * 200 + "!", " " * 200 + "x", "ab" * 100 + "!", "\n" * 100 + " " * 100 + "b", "a a " * 50 + "\n!"]
    for _ in range(1500):
        pattern = random_pattern(draw)
        try:
            regex = tokenizers.Regex(pattern)
        except Exception:
            continue
        try:
            judge(pattern)
        except PatternError:
            refused += 1
            continue
        taken += 1
        split = pre_tokenizers.Split(regex, "isolated")
        for text in trying:
            assert "".join(piece for piece, _ in split.pre_tokenize_str(text)) == text
    assert taken > 300 and refused > 10
