# Python values to C structs and back, and C errors to exceptions; a part of _core.pyx.

import atexit
import os
import threading
import time
from collections import namedtuple

Tensor = namedtuple("Tensor", "name rows cols is_matrix format bytes")
Progress = namedtuple("Progress", "tokens text logprobs finish prompt_tokens prefix_hit_tokens prompt_done "
                                  "prompt_seconds decode_seconds prompt_cpu_seconds cpu_seconds threads n_best "
                                  "draft_proposed draft_accepted",
                      defaults=(0, 0, 0))
Best = namedtuple("Best", "token_ids text score finish")
Item = namedtuple("Item", "session tokens rows logits types hidden hidden_states attentions whole listed seen "
                          "cross_attentions adapter",
                  defaults=("last", None, None, None, None, None, 0, None, 0, None, None))
Texts = namedtuple("Texts", "ids ends order rows types logits hidden adapter", defaults=(None, None, None, None))
cdef dict _EXCEPTIONS = {
    FLM_ERR_ARGUMENT: errors.ParameterError,
    FLM_ERR_FORMAT: errors.ModelFormatError,
    FLM_ERR_UNSUPPORTED: errors.UnsupportedError,
    FLM_ERR_CONTEXT_LENGTH: errors.ContextLengthError,
    FLM_ERR_MEMORY: errors.ModelMemoryError,
    FLM_ERR_IO: errors.ModelFileError,
    FLM_ERR_NUMERIC: errors.NumericError,
    FLM_ERR_CANCELLED: errors.Cancelled,
    FLM_ERR_STATE: errors.StateError,
}
FORMATS = {"float32": <int>FLM_FORMAT_F32, "float16": <int>FLM_FORMAT_F16, "bfloat16": <int>FLM_FORMAT_BF16,
           "int8": <int>FLM_FORMAT_I8, "int4": <int>FLM_FORMAT_I4}
STRIP = <int>FLM_STRIP  # rows of a matrix are packed by so many
cdef dict _FORMAT_NAMES = {value: name for name, value in FORMATS.items()}
cdef dict _DTYPE_OF_CODE = {"f": FLM_DTYPE_F32, "e": FLM_DTYPE_F16, "H": FLM_DTYPE_BF16}
cdef dict _DTYPES = {"auto": 0, "float32": FLM_DTYPE_F32, "bfloat16": FLM_DTYPE_BF16, "int8": FLM_DTYPE_I8}
cdef dict _DTYPE_NAMES = {value: name for name, value in _DTYPES.items()}
cdef dict _KINDS = {FLM_KIND_DECODER: "decoder", FLM_KIND_ENCODER: "encoder",
                    FLM_KIND_ENCODER_DECODER: "encoder-decoder"}
cdef dict _ROWS = {"none": FLM_ROWS_NONE, "last": FLM_ROWS_LAST, "all": FLM_ROWS_ALL, "first": FLM_ROWS_FIRST,
                   "mean": FLM_ROWS_MEAN, "listed": FLM_ROWS_LISTED}
cdef dict _ROW_NAMES = {value: name for name, value in _ROWS.items()}
cdef dict _EARLY = {False: FLM_EARLY_NO, True: FLM_EARLY_YES, "never": FLM_EARLY_NEVER}
cdef dict _FINISHES = {FLM_FINISH_NONE: None, FLM_FINISH_STOP: "stop", FLM_FINISH_LENGTH: "length",
                       FLM_FINISH_CANCELLED: "cancelled"}


def version(): return flm_version().decode()
def usable_cores(): return flm_usable_cores()
def matrix_bytes(format, rows, cols): return flm_matrix_bytes(FORMATS[format], rows, cols)


cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1
    unsigned long PyThread_get_thread_ident()


cdef int _check(flm_status status, flm_error *error) except -1:
    if status == FLM_OK:
        return 0
    raise _EXCEPTIONS[status](error.text.decode("utf-8", "replace"))


# Daemon threads must not come back from C when the interpreter is gone: at exit their calls are ended, and what they
# would do next waits for the process to end.
cdef bint _ending = False
cdef Py_ssize_t _running = 0  # calls inside of C


def _end():
    global _ending
    _ending = True
    for _ in range(400):
        if _running == 0:
            break
        time.sleep(0.005)


cdef bint _stopping():
    return _ending and threading.current_thread().daemon


cdef int _stay_if_ending() except -1:
    while _stopping():
        time.sleep(60)
    return 0


def _forget_calls():
    global _running
    _running = 0


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_calls)


cdef dict _asking = {}  # by thread: the poll that asks, perhaps in the midst of a step


cdef struct _Asked:
    void *call   # a _Poll, borrowed
    bint silent  # nothing but the interpreter's end could be the answer, and that needs no lock


cdef class _Poll:
    """A call inside of C, and what it is asked while it waits: did a signal arrive (the main thread), is `cancel` set?"""
    cdef object cancel
    cdef _Asked asked
    cdef BaseException raised
    cdef flm_poll poll
    cdef bint inside
    cdef list left  # models that went while it asked

    def __cinit__(self, cancel=None):
        global _running
        _stay_if_ending()
        self.cancel = cancel
        self.left = []
        self.asked.call = <void *>self
        self.asked.silent = cancel is None and threading.current_thread() is not threading.main_thread()
        self.poll.ask = _ask
        self.poll.user = &self.asked
        self.inside = True
        _running += 1

    def __dealloc__(self):
        self.leave()

    cdef void leave(self) noexcept:
        global _running
        if self.inside and _running > 0:
            _running -= 1
        self.inside = False
        self.left = []

    cdef int check(self, flm_status status, flm_error *error) except -1:
        self.leave()
        _stay_if_ending()
        if self.raised is not None:
            raise self.raised
        return _check(status, error)


cdef int _ask(void *user) noexcept nogil:
    cdef _Asked *asked = <_Asked *>user
    return 0 if asked.silent and not _ending else _ask_python(asked.call)


cdef int _ask_python(void *call) noexcept with gil:
    poll = <_Poll>call
    cdef unsigned long thread = PyThread_get_thread_ident()
    before = _asking.get(thread)
    _asking[thread] = poll
    try:
        PyErr_CheckSignals()
        return 1 if _stopping() or (poll.cancel is not None and poll.cancel.is_set()) else 0
    except BaseException as raised:
        poll.raised = raised
        return 1
    finally:
        if before is None:
            del _asking[thread]
        else:
            _asking[thread] = before


cdef flm_model_options _options(format, kv_dtype, max_context, kv_bytes, prefix_cache, verify) except *:
    cdef flm_model_options o
    memset(&o, 0, sizeof(o))
    o.size_bytes = sizeof(o)
    o.format = FORMATS[format]
    o.kv_dtype = <flm_dtype><int>_DTYPES[kv_dtype]
    o.context = max_context
    o.kv_bytes = kv_bytes
    o.prefix_cache = 0 if prefix_cache else 1
    o.verify = verify
    return o


cdef bytes _spec_of(const flm_model *model):
    cdef const void *blob
    cdef size_t n_bytes
    flm_model_spec(model, &blob, &n_bytes)
    return (<const char *>blob)[:n_bytes]


cdef dict _describe(const flm_model_info *i):
    return {"kind": _KINDS[i.kind], "vocab": i.vocab, "width": i.width, "layers": i.layers, "heads": i.heads,
            "cross_heads": i.cross_heads, "encoder_heads": i.encoder_heads, "context": i.context, "format": _FORMAT_NAMES[i.format], "kv_dtype": _DTYPE_NAMES[i.kv_dtype],
            "bos": i.bos if i.bos >= 0 else None, "decoder_start": i.decoder_start if i.decoder_start >= 0 else None,
            "parameters": i.parameters, "weight_bytes": i.weight_bytes, "kv_bytes_per_token": i.kv_bytes_per_token,
            "kv_bytes": i.kv_bytes, "scratch_bytes": i.scratch_bytes, "outputs": i.outputs,
            "rows": _ROW_NAMES[i.rows]}


cdef float *_floats(array, size_t n, name) except? NULL:
    """The array's data, after a check that it has n float32 values; None gives NULL."""
    cdef float[::1] flat
    if array is None:
        return NULL
    flat = array.reshape(-1)
    if <size_t>flat.shape[0] != n or n == 0:
        raise errors.ParameterError(f"{name} has room for {flat.shape[0]} values, not {n}")
    return &flat[0]


cdef float *_attentions(array, size_t heads, size_t tokens, size_t keys) except NULL:
    if array.shape != (heads, tokens, keys):
        raise errors.ParameterError(f"attentions must have the shape (heads of all layers, tokens, keys): "
                                    f"{(heads, tokens, keys)}, not {array.shape}")
    return _floats(array, heads * tokens * keys, "attentions")


cdef int _fill_change(flm_adapter_change *c, change, dict shapes) except -1:
    """A change, after a check of its arrays' sizes."""
    cdef size_t rows, cols, rank = change.rank
    table = "embed.tokens" if change.site == "head.weight" else change.site
    if change.site not in shapes and table not in shapes:
        raise errors.ParameterError(f"{change.site}: is no matrix of this model")
    rows, cols = shapes[change.site if change.site in shapes else table]
    if change.site == "embed.tokens":
        rows, cols = cols, rows
    c.rank = rank
    c.scale = change.scale
    c.a = _floats(change.a, rank * cols, "a")
    c.b = _floats(change.b, rows * rank, "b")
    c.whole = _floats(change.whole, rows * cols, "whole")
    c.gain = _floats(change.gain, rows, "gain")
    c.bias = _floats(change.bias, rows, "bias")
    return 0


cdef const int32_t *_ids(array) except? NULL:
    cdef const int32_t[::1] ids = array
    return &ids[0] if ids.shape[0] else NULL


cdef int _fill_item(flm_item *c, item, const flm_model_info *info) except -1:
    """An item whose session is set already: its arrays, after a check of their sizes."""
    cdef size_t count = len(item.tokens)
    if item.types is not None and <size_t>len(item.types) != count:
        raise errors.ParameterError(f"token types: {len(item.types)} of them for {count} tokens")
    c.tokens = _ids(item.tokens)
    c.n_tokens = count
    if item.types is not None:
        c.types = _ids(item.types)
    c.rows = _ROWS[item.rows]
    if item.listed is not None:
        c.listed = <const uint32_t *>_ids(item.listed)
        c.n_listed = len(item.listed)
    c.n_whole = item.whole
    c.n_seen = item.seen
    rows = {"none": 0, "all": count, "listed": c.n_listed}.get(item.rows, 1)
    c.logits = _floats(item.logits, rows * <size_t>info.outputs, "logits")
    c.hidden = _floats(item.hidden, count * info.width, "hidden")
    c.hidden_states = _floats(item.hidden_states, (info.layers + 1) * count * info.width, "hidden_states")
    if item.attentions is not None:
        length = 0 if item.session is None else item.session.length
        c.attentions = _attentions(item.attentions, info.heads, count, length + count)
    if item.cross_attentions is not None:
        c.cross_attentions = _attentions(item.cross_attentions, info.cross_heads, count, item.session.source)
    return 0


cdef int _set_numbers(flm_sampling *s, dict sampling) except -1:
    s.max_tokens = sampling.get("max_tokens", s.max_tokens)
    s.min_tokens = sampling.get("min_tokens", s.min_tokens)
    s.temperature = sampling.get("temperature", s.temperature)
    s.top_k = sampling.get("top_k", s.top_k)
    s.top_p = sampling.get("top_p", s.top_p)
    s.min_p = sampling.get("min_p", s.min_p)
    s.typical_p = sampling.get("typical_p", s.typical_p)
    s.repetition_penalty = sampling.get("repetition_penalty", s.repetition_penalty)
    s.presence_penalty = sampling.get("presence_penalty", s.presence_penalty)
    s.frequency_penalty = sampling.get("frequency_penalty", s.frequency_penalty)
    s.no_repeat_ngram_size = sampling.get("no_repeat_ngram_size", s.no_repeat_ngram_size)
    s.seed = sampling.get("seed", s.seed)
    s.ignore_eos = sampling.get("ignore_eos", s.ignore_eos)
    s.logprobs = sampling.get("logprobs", s.logprobs)
    s.forced_bos = sampling.get("forced_bos", s.forced_bos)
    s.encoder_no_repeat_ngram_size = sampling.get("encoder_no_repeat_ngram_size", s.encoder_no_repeat_ngram_size)
    s.num_beams = sampling.get("num_beams", s.num_beams)
    s.length_penalty = sampling.get("length_penalty", s.length_penalty)
    s.lookup = sampling.get("lookup", s.lookup)
    s.draft_tokens = sampling.get("draft_tokens", s.draft_tokens)
    s.masked = sampling.get("masked", 0)
    s.early_stopping = <flm_early_stopping><int>_EARLY[sampling.get("early_stopping", False)]
    return 0


@cython.final
cdef class _Lists:
    """The arrays that a flm_sampling points to, while it is in use."""
    cdef list kept
    cdef flm_bias *biases
    cdef flm_bytes *strings
    cdef flm_ids *words

    def __cinit__(self):
        self.kept = []

    def __dealloc__(self):
        free(self.biases)
        free(self.strings)
        free(self.words)

    cdef const int32_t *ids(self, tokens, size_t *n) except NULL:
        cdef const int32_t[::1] array = np.array([*tokens, 0], np.int32)
        self.kept.append(array)
        n[0] = array.shape[0] - 1
        return &array[0]

    cdef int fill(self, flm_sampling *s, dict sampling) except -1:
        cdef list biases = list(sampling.get("biases", {}).items()), stops = sampling.get("stops", [])
        cdef list words = sampling.get("bad_words", [])
        cdef Py_ssize_t i
        self.kept.append(stops)
        self.biases = <flm_bias *>calloc(len(biases) + 1, sizeof(flm_bias))
        self.strings = <flm_bytes *>calloc(len(stops) + 1, sizeof(flm_bytes))
        self.words = <flm_ids *>calloc(len(words) + 1, sizeof(flm_ids))
        if self.biases is NULL or self.strings is NULL or self.words is NULL:
            raise MemoryError
        for i in range(len(biases)):
            self.biases[i].token, self.biases[i].value = biases[i]
        for i in range(len(stops)):
            self.strings[i].data = <const uint8_t *><const char *>(<bytes>stops[i])
            self.strings[i].n_bytes = len(<bytes>stops[i])
        for i in range(len(words)):
            self.words[i].ids = self.ids(words[i], &self.words[i].n)
        s.biases, s.n_biases = self.biases, len(biases)
        s.stops, s.n_stops = self.strings, len(stops)
        s.bad_words, s.n_bad_words = self.words, len(words)
        s.stop_tokens = self.ids(sampling.get("stop_tokens", ()), &s.n_stop_tokens)
        s.forced_ends.ids = self.ids(sampling.get("forced_ends", ()), &s.forced_ends.n)
        s.suppressed.ids = self.ids(sampling.get("suppressed", ()), &s.suppressed.n)
        s.begin_suppressed.ids = self.ids(sampling.get("begin_suppressed", ()), &s.begin_suppressed.n)
        return 0
