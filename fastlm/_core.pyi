"""The C core as Python sees it: handles and error translation, no policy. Mirrors csrc/include/fastlm.h."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, final

import numpy as np
from numpy.typing import NDArray

FORMATS: dict[str, int]  # "float32", ..., "int4" -> flm_format
STRIP: int  # rows of a matrix are packed by so many

class Tensor(NamedTuple):
    name: str
    rows: int
    cols: int
    is_matrix: bool
    format: str
    bytes: int

class Progress(NamedTuple):
    tokens: list[int]  # written since the last call
    text: bytes  # released since the last call: whole code points
    logprobs: list[list[tuple[int, float]]]  # per new token: the chosen one, then the k best
    finish: str | None  # "stop" | "length" | "cancelled"
    prompt_tokens: int
    prefix_hit_tokens: int
    prompt_done: int
    prompt_seconds: float
    decode_seconds: float
    prompt_cpu_seconds: float
    cpu_seconds: float
    threads: float
    n_best: int = 0  # texts that a beam search has found
    draft_proposed: int = 0
    draft_accepted: int = 0

class Best(NamedTuple):
    token_ids: list[int]
    text: bytes
    score: float | None
    finish: str

def version() -> str: ...
def usable_cores() -> int: ...
def matrix_bytes(format: str, rows: int, cols: int) -> int: ...  # packed

@final
class Context:
    # threads 0: $FASTLM_THREADS, else as many as weight_bytes of matrices need
    def __init__(self, threads: int = 0, isa: str | None = None, weight_bytes: int = 0) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def counters(self) -> dict[str, int | float | list[int]]: ...
    def drive(self, idle_seconds: float) -> None: ...  # until interrupted, or idle for so long
    def interrupt(self) -> None: ...

@final
class Model:
    @staticmethod
    def create(
        context: Context,
        spec: bytes,
        *,
        format: str,
        kv_dtype: str = "auto",
        max_context: int = 0,
        kv_bytes: int = 0,
        prefix_cache: bool = True,
    ) -> Model: ...
    @staticmethod
    def open(
        context: Context,
        path: bytes,
        *,
        kv_dtype: str = "auto",
        max_context: int = 0,
        kv_bytes: int = 0,
        prefix_cache: bool = True,
        verify: bool = False,
    ) -> Model: ...
    def tensors(self) -> list[Tensor]: ...
    def set_format(self, index: int, format: str) -> None: ...  # of a matrix, before any rows are loaded
    def spec(self) -> bytes: ...  # the blob that describes the model
    def tensor_data(self, index: int) -> memoryview: ...  # packed bytes, read-only; keeps the model alive
    # values: C-contiguous 2-D float32 or float16 array, or uint16 holding bfloat16
    def load_rows(
        self, index: int, row: int, values: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16]
    ) -> None: ...
    def read_rows(self, index: int, row: int, n_rows: int) -> NDArray[np.float32]: ...  # once it is finished
    def finish(self) -> None: ...
    def set_vocabulary(
        self,
        pieces: Sequence[bytes],
        special: Sequence[bool],
        *,
        strip_first_space: bool,
        bos: int | None,
        decoder_start: int | None,
        eos: Sequence[int],
    ) -> None: ...
    def vocabulary(self) -> tuple[list[bytes], list[bool], list[int]]: ...  # what ids print, which are special, ends
    def info(self) -> dict[str, int | str | None]: ...  # the fields of flm_model_info
    def plan(self) -> str: ...  # the operations of a step, one line each
    def adapter(self, changes: Sequence[Change]) -> Adapter: ...
    def session(self) -> Session: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...

# Of a matrix W, y = gain * (W x + scale * b (a x) + bias of W) + bias; or `whole` in its place: fastlm/weights/lora.py.
class Change(Protocol):
    @property
    def site(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def scale(self) -> float: ...
    @property
    def a(self) -> NDArray[np.float32] | None: ...
    @property
    def b(self) -> NDArray[np.float32] | None: ...
    @property
    def whole(self) -> NDArray[np.float32] | None: ...
    @property
    def gain(self) -> NDArray[np.float32] | None: ...
    @property
    def bias(self) -> NDArray[np.float32] | None: ...

@final
class Adapter:
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...  # sequences that use it keep it

@final
class Session:
    def set_adapter(self, adapter: Adapter | None) -> None: ...  # forgets what was computed with another one
    def set_salt(self, salt: int) -> None: ...  # prefixes are shared with sessions of the same one
    def fork(self) -> Session: ...
    def rewind(self, n: int) -> None: ...
    @property
    def length(self) -> int: ...
    @property
    def tokens(self) -> list[int]: ...
    def set_source(self, ids: NDArray[np.int32]) -> None: ...  # encoded by whatever needs it first
    # The same, encoded now. attentions: (encoder_heads of all layers, tokens, tokens), filled
    def encode(
        self, ids: NDArray[np.int32], cancel: object = None, attentions: NDArray[np.float32] | None = None
    ) -> None: ...
    @property
    def source(self) -> int: ...  # tokens of it
    def close(self) -> None: ...

# One item of a step; the arrays that are given are filled (shapes as in flm_item).
class Item(NamedTuple):
    session: Session | None  # an encoder's may be None
    tokens: NDArray[np.int32]
    rows: str = "last"  # or none, all, first, mean, listed
    logits: NDArray[np.float32] | None = None
    types: NDArray[np.int32] | None = None
    hidden: NDArray[np.float32] | None = None
    hidden_states: NDArray[np.float32] | None = None
    attentions: NDArray[np.float32] | None = None
    whole: int = 0  # tokens of the sequence that this is a beginning of (LongRoPE)
    listed: NDArray[np.int32] | None = None  # tokens, ascending
    seen: int = 0  # of an encoder's tokens, how many are looked at; 0: all
    cross_attentions: NDArray[np.float32] | None = None
    adapter: Adapter | None = None  # of an item without a session; else the session's counts

def forward(model: Model, items: Sequence[Item], cancel: object = None) -> None: ...

# Texts of an encoder side by side: text i is ids[ends[i - 1] : ends[i]].
class Texts(NamedTuple):
    ids: NDArray[np.int32]
    ends: NDArray[np.int64]
    order: NDArray[np.int64]  # in which they are run
    rows: str  # all, first, last or mean: what the head reads of each text
    types: NDArray[np.int32] | None = None  # (total,)
    logits: NDArray[np.float32] | None = None  # (texts, outputs), of all rows (total, outputs)
    hidden: NDArray[np.float32] | None = None  # (total, width)
    adapter: Adapter | None = None

def read_texts(model: Model, texts: Texts, cancel: object = None) -> None: ...

@final
class Request:
    # sampling: fields of flm_sampling by name; biases: dict[int, float], stops: list[bytes], bad_words: lists of ids,
    # draft: a Model, which the request keeps
    def __init__(self, session: Session, prompt: NDArray[np.int32], sampling: dict[str, object]) -> None: ...
    def wait(self, wait_all: bool = False, cancel: object = None) -> Progress: ...  # cancel: has is_set()
    def best(self, i: int) -> Best: ...  # of a beam search that has ended
    def cancel(self) -> None: ...
    # Of a masked request: the inbox hears when it wants a mask; tokens written and the last of them (-1), if it does;
    # the mask after so many, a bit for each token, or None where the text is complete. The last two never raise
    # because something is closed.
    def tell_masks(self, inbox: Inbox, id: int) -> None: ...
    def wanted(self) -> tuple[int, int] | None: ...
    def mask(self, n_tokens: int, bits: NDArray[np.uint32] | None = None) -> None: ...
    def post(self, inbox: Inbox, id: int, wait_all: bool) -> None: ...
    def close(self) -> None: ...

@final
class Inbox:
    def __init__(self, context: Context, descriptor: int) -> None: ...  # of a pipe that does not block
    def take(self) -> list[int]: ...  # ids of requests that have something new
    def close(self) -> None: ...
