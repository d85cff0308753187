"""The bounds of this machine now, by bounds.c: what no engine can pass."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("bounds.c")
PEAKS = ("float32", "bfloat16", "int8", "amx_bfloat16", "amx_int8")


class Bounds:
    """Compiles bounds.c into the cache, unless it is there already, and measures with so many threads."""

    def __init__(self, threads: int, cache: Path) -> None:
        digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
        library = cache / f"bounds-{digest}.so"
        if not library.exists():
            cache.mkdir(parents=True, exist_ok=True)
            flags = ["-O3", "-march=native", "-shared", "-fPIC", "-pthread"]
            subprocess.run(["cc", *flags, str(SOURCE), "-o", str(library)], check=True)
        self.threads = threads
        self.library = ctypes.CDLL(str(library))
        self.library.read_bandwidth.argtypes = [ctypes.c_uint, ctypes.c_size_t]

    def _call(self, name: str, *arguments: int) -> float:
        function = getattr(self.library, name)
        function.restype = ctypes.c_double
        return float(function(self.threads, *arguments))

    def read(self, n_bytes: float) -> float:
        """Bytes per second of reading so many bytes over and over."""
        return self._call("read_bandwidth", int(n_bytes))

    def peaks(self) -> dict[str, float]:
        """Operations per second of the registers (a multiply-add is 2); 0: there is no such instruction."""
        return {name: self._call(f"{name}_peak") for name in PEAKS}
