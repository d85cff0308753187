"""GPT-2's alphabet: printable characters that stand for bytes."""


def _byte_of() -> dict[str, int]:
    """Visible Latin-1 characters stand for themselves; the other bytes follow from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in visible]
    return {chr(b): b for b in visible} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


BYTE_OF = _byte_of()
LETTERS = sorted(BYTE_OF, key=BYTE_OF.__getitem__)  # of each byte
_TO_LATIN = {ord(c): b for c, b in BYTE_OF.items()}
_ALPHABET = frozenset(BYTE_OF)


def bytes_of(piece: str) -> bytes:
    """The bytes that a piece of a byte-level tokenizer stands for; with any other character in it, its UTF-8."""
    return piece.translate(_TO_LATIN).encode("latin-1") if _ALPHABET.issuperset(piece) else piece.encode("utf-8")
