"""JSON from files that nobody vouches for: bounded in size and depth, always valid Unicode."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from fastlm.errors import ModelFileError, ModelFormatError, file_error

MAX_FILE_BYTES = 256 << 20  # of tokenizer.json, the largest small file, which is read whole
MAX_JSON_BYTES = 16 << 20  # config files are a few kilobytes; a shard index of 100,000 tensors is 10 MB
_MAX_DEPTH = 64
_MAX_DIGITS = 64  # of an integer; transformers writes int(1e30), 31 digits, for a text without a longest length

_LFS_PREFIX = b"version https://git-lfs"


def _unique_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {name[:80]!r} occurs twice")
            seen.add(name)
    return result


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


_USUAL = json.JSONDecoder(parse_int=_integer)
_UNIQUE = json.JSONDecoder(parse_int=_integer, object_pairs_hook=_unique_object)


def _depth_exceeds(value: object, limit: int) -> bool:
    level: list[object] = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return True


def parse_json(data: bytes, where: str, *, unique: bool = False) -> object:
    """The JSON value that `data` holds.

    Parameters
    ----------
    data
        UTF-8 text.
    where
        The file (and part) it comes from, for error texts.
    unique
        Refuse a name that occurs twice in an object. Otherwise the last one counts, as for transformers, whose
        hand-edited config files sometimes repeat a name.

    Raises
    ------
    ModelFormatError
        Not UTF-8, not JSON, an integer of more than 64 digits, nesting deeper than 64, half of a surrogate pair in a
        string, or a repeated name.
    """
    try:
        text = data.decode("utf-8")
        value: object = (_UNIQUE if unique else _USUAL).decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{where}: not UTF-8 text (byte {error.start})") from None
    except UnicodeEncodeError:
        raise ModelFormatError(f"{where}: a string holds half of a surrogate pair") from None
    except RecursionError:
        raise ModelFormatError(f"{where}: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ModelFormatError(f"{where}: not JSON: {error}") from None
    except ValueError as error:
        raise ModelFormatError(f"{where}: {error}") from None
    if _depth_exceeds(value, _MAX_DEPTH):
        raise ModelFormatError(f"{where}: nested too deeply")
    return value


def parse_object(data: bytes, where: str, *, unique: bool = False) -> dict[str, object]:
    """The JSON object that `data` holds; raises as `parse_json`, and where it holds something else."""
    value = parse_json(data, where, unique=unique)
    if not isinstance(value, dict):
        raise ModelFormatError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def check_lfs(start: bytes, where: str) -> None:
    """Raise ModelFormatError if a file that starts with `start` only stands for the real one."""
    if start.startswith(_LFS_PREFIX):
        raise ModelFormatError(
            f"{where}: is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, "
            "or download the model again"
        )


def file_bytes(path: Path) -> int:
    """Size of a regular file.

    Raises
    ------
    ModelFileError
        It does not exist, cannot be looked at, or is not a regular file (reading a pipe could wait for ever).
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise file_error(path, "read", error) from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError(f"{path}: is not a regular file")
    return status.st_size


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The whole of a regular file that may have at most `max_bytes`.

    Raises
    ------
    ModelFileError
        It cannot be read.
    ModelFormatError
        It is too large, or a Git LFS pointer.
    """
    size = file_bytes(path)
    if size > max_bytes:
        raise ModelFormatError(f"{path}: has {size:,} bytes; a file of this kind has at most {max_bytes:,}")
    try:
        with path.open("rb") as file:
            data = file.read(size + 1)
    except OSError as error:
        raise file_error(path, "read", error) from error
    if len(data) > size:
        raise ModelFormatError(f"{path}: grew while it was read")
    check_lfs(data[:64], str(path))
    return data


def read_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """The JSON object in a file; raises as `read_bytes` and `parse_object` do."""
    return parse_object(read_bytes(path, max_bytes), str(path))
