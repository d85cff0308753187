# cython: boundscheck=False, wraparound=False, embedsignature=False
"""Handles of the C core; a handle keeps what it belongs to alive. A closed model is freed after its last call and session."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from collections import namedtuple

import numpy as np

from fastlm import errors

include "_translate.pxi"

Tensor = namedtuple("Tensor", "name rows cols is_matrix format bytes")
Progress = namedtuple("Progress", "tokens text logprobs finish prompt_tokens prefix_hit_tokens prompt_done "
                                  "prompt_seconds decode_seconds")
Item = namedtuple("Item", "session tokens rows logits types hidden hidden_states attentions",
                  defaults=(1, None, None, None, None, None))


def version(): return flm_version().decode()
def usable_processors(): return flm_usable_processors()
def suggested_threads(weight_bytes): return flm_suggested_threads(weight_bytes)


@cython.final
@cython.no_gc
cdef class Context:
    cdef flm_context *handle

    def __init__(self, threads=0, isa=None):
        cdef flm_context_options options
        cdef flm_error error
        name = None if isa is None else isa.encode()
        if self.handle is not NULL:
            raise errors.StateError("the context exists already")
        memset(&options, 0, sizeof(options))
        options.size_bytes = sizeof(options)
        options.threads = threads
        if name is not None: options.isa = name
        _check(flm_context_create(&options, &self.handle, &error), &error)

    def __dealloc__(self):
        flm_context_destroy(self.handle)

    @property
    def isa(self):
        return flm_context_isa(self.handle).decode()

    @property
    def threads(self):
        return flm_context_threads(self.handle)

    def counters(self):
        cdef flm_counters c
        flm_context_counters(self.handle, &c)
        return {"forwards": c.forwards, "tokens": c.tokens, "prefix_hit_tokens": c.prefix_hit_tokens,
                "tiles": [c.tiles[t] for t in range(self.threads)]}


@cython.final
@cython.no_gc
cdef class Model:
    cdef flm_model *handle
    cdef Context context
    cdef Py_ssize_t holds  # sessions, and calls that run
    cdef readonly bint closed

    @staticmethod
    def create(Context context, bytes spec, *, format, kv_dtype="auto", max_context=0, kv_bytes=0, prefix_cache=True):
        cdef flm_model_options options = _options(format, kv_dtype, max_context, kv_bytes, prefix_cache, False)
        cdef flm_error error
        cdef Model self = Model.__new__(Model)
        self.context = context
        _check(flm_model_create(context.handle, <const char *>spec, len(spec), &options, &self.handle, &error), &error)
        return self

    @staticmethod
    def open(Context context, bytes path, *, kv_dtype="auto", max_context=0, kv_bytes=0, prefix_cache=True,
             verify=False):
        cdef flm_model_options options = _options("float32", kv_dtype, max_context, kv_bytes, prefix_cache, verify)
        cdef flm_error error
        cdef flm_status status
        cdef Model self = Model.__new__(Model)
        cdef const char *name = path
        cdef _Poll call = _Poll()
        self.context = context
        with nogil:
            status = flm_model_open(context.handle, name, &options, &self.handle, &error)
        call.check(status, &error)
        return self

    def __dealloc__(self):
        with nogil: flm_model_destroy(self.handle)  # giving gigabytes back takes its time

    cdef int hold(self) except -1:
        if self.closed:
            raise errors.StateError("the model is closed")
        self.holds += 1
        return 0

    cdef void release(self) noexcept:
        self.holds -= 1
        self.free_if_unused()

    cdef void free_if_unused(self) noexcept:
        cdef flm_model *handle = self.handle
        if self.closed and self.holds == 0:
            self.handle = NULL  # first, for the lock is let go of
            with nogil: flm_model_destroy(handle)

    def close(self):
        self.closed = True
        self.free_if_unused()

    def tensors(self):
        cdef flm_tensor t
        cdef flm_error error
        found = []
        self.hold()
        try:
            for i in range(flm_model_tensor_count(self.handle)):
                _check(flm_model_tensor(self.handle, i, &t, &error), &error)
                found.append(Tensor(t.name.decode(), t.rows, t.cols, bool(t.is_matrix), _FORMAT_NAMES[t.format], t.bytes))
        finally:
            self.release()
        return found

    def tensor_data(self, size_t index):
        cdef _Packed packed = _Packed.__new__(_Packed)
        cdef flm_error error
        self.hold()
        packed.model = self
        _check(flm_model_tensor(self.handle, index, &packed.tensor, &error), &error)
        if packed.tensor.data is NULL:
            raise errors.StateError("the tensor is not loaded yet")
        return memoryview(packed)

    def load_rows(self, size_t index, size_t row, values):
        cdef flm_error error
        cdef _Poll call = _Poll()
        cdef flm_status status
        cdef flm_dtype dtype = _DTYPE_OF_CODE[values.dtype.char]
        cdef const uint8_t[::1] data = memoryview(values).cast("B")
        cdef const void *at = &data[0] if data.shape[0] else NULL
        cdef size_t n_rows = values.shape[0]
        cdef flm_tensor t
        self.hold()
        try:
            _check(flm_model_tensor(self.handle, index, &t, &error), &error)
            if values.shape[1] != t.cols:
                raise errors.ParameterError(f"{t.name.decode()}: got {values.shape[1]} columns, not {t.cols}")
            with nogil:
                status = flm_model_load_rows(self.handle, index, row, n_rows, at, dtype, &error)
            call.check(status, &error)
        finally:
            self.release()

    def finish(self):
        cdef flm_error error
        cdef flm_status status
        self.hold()
        status = flm_model_finish(self.handle, &error)
        self.release()
        _check(status, &error)

    def set_vocabulary(self, pieces, special, *, strip_first_space, bos, decoder_start, eos):
        cdef flm_vocabulary v
        cdef flm_error error
        cdef flm_status status
        cdef const uint64_t[::1] offsets = np.cumsum([0, *map(len, pieces)], dtype=np.uint64)
        cdef bytes joined = b"".join(pieces)
        cdef bytes flags = bytes(map(bool, special))
        cdef const int32_t[::1] ends = np.array([*eos, 0], np.int32)
        memset(&v, 0, sizeof(v))
        v.size_bytes = sizeof(v)
        v.n_tokens = len(pieces)
        v.offsets = &offsets[0]
        v.bytes = <const uint8_t *><const char *>joined
        v.special = <const uint8_t *><const char *>flags
        v.strip_first_space = strip_first_space
        v.bos = -1 if bos is None else bos
        v.decoder_start = -1 if decoder_start is None else decoder_start
        v.eos = &ends[0]
        v.n_eos = len(eos)
        if len(flags) != len(pieces):
            raise errors.ParameterError("special needs one flag per piece")
        self.hold()
        status = flm_model_set_vocabulary(self.handle, &v, &error)
        self.release()
        _check(status, &error)

    def info(self):
        cdef flm_model_info i
        self.hold()
        flm_model_info_get(self.handle, &i)
        self.release()
        return _describe(&i)

    def session(self):
        cdef flm_error error
        cdef Session session = Session.__new__(Session)
        self.hold()
        session.model = self
        _check(flm_session_create(self.handle, &session.handle, &error), &error)
        return session


@cython.no_gc
cdef class _Packed:
    """A tensor's packed bytes as a read-only buffer that keeps the model's memory."""
    cdef Model model
    cdef flm_tensor tensor

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, <void *>self.tensor.data, self.tensor.bytes, 1, flags)

    def __dealloc__(self):
        if self.model is not None:
            self.model.release()


@cython.final
@cython.no_gc
cdef class Session:
    cdef flm_session *handle
    cdef Model model

    def __dealloc__(self):
        self.close()

    cpdef close(self):
        if self.model is None:
            return
        flm_session_destroy(self.handle)
        self.handle = NULL
        self.model.release()
        self.model = None

    cdef int usable(self) except -1:
        if self.model is None:
            raise errors.StateError("the session is closed")
        if self.model.closed:
            raise errors.StateError("the model of this session is closed")
        return 0

    def fork(self):
        cdef flm_error error
        cdef Session twin = Session.__new__(Session)
        self.usable()
        self.model.hold()
        twin.model = self.model
        _check(flm_session_fork(self.handle, &twin.handle, &error), &error)
        return twin

    def rewind(self, size_t n):
        cdef flm_error error
        self.usable()
        _check(flm_session_rewind(self.handle, n, &error), &error)

    @property
    def length(self):
        self.usable()
        return flm_session_length(self.handle)

    @property
    def tokens(self):
        self.usable()
        return [flm_session_tokens(self.handle)[i] for i in range(flm_session_length(self.handle))]

    def encode(self, const int32_t[::1] ids, cancel=None):
        cdef flm_error error
        cdef flm_status status
        cdef _Poll poll = _Poll(cancel)
        cdef const int32_t *at = &ids[0] if ids.shape[0] else NULL
        self.usable()
        with nogil:
            status = flm_session_encode(self.handle, at, ids.shape[0], &poll.poll, &error)
        poll.check(status, &error)


def forward(Model model, items, cancel=None):
    cdef flm_error error
    cdef flm_status status
    cdef _Poll poll = _Poll(cancel)
    cdef flm_model_info info
    cdef flm_item *c_items = <flm_item *>calloc(max(len(items), 1), sizeof(flm_item))
    cdef size_t n = len(items), i
    cdef Session session
    if c_items is NULL:
        raise MemoryError
    try:
        model.hold()
        try:
            flm_model_info_get(model.handle, &info)
            for i in range(n):
                session = items[i].session
                session.usable()
                c_items[i].session = session.handle
                _fill_item(&c_items[i], items[i], &info)
            with nogil:
                status = flm_forward(model.handle, c_items, n, &poll.poll, &error)
            poll.check(status, &error)
        finally:
            model.release()
    finally:
        free(c_items)


@cython.final
@cython.no_gc
cdef class Request:
    cdef flm_request *handle
    cdef Session session
    cdef Model model
    cdef size_t n_tokens, text_bytes

    def __init__(self, Session session, const int32_t[::1] prompt, dict sampling):
        cdef flm_sampling s
        cdef flm_error error
        cdef Py_ssize_t i
        cdef list stops = sampling.get("stops", [])
        cdef flm_bias *biases = NULL
        cdef flm_bytes *strings = NULL
        cdef const int32_t[::1] stop_tokens = np.array([*sampling.get("stop_tokens", ()), 0], np.int32)
        if self.handle is not NULL:
            raise errors.StateError("the request exists already")
        session.usable()
        flm_sampling_defaults(&s)
        _set_numbers(&s, sampling)
        s.stop_tokens = &stop_tokens[0]
        s.n_stop_tokens = stop_tokens.shape[0] - 1
        bias_items = list(sampling.get("biases", {}).items())
        try:
            biases = <flm_bias *>calloc(len(bias_items) + 1, sizeof(flm_bias))
            strings = <flm_bytes *>calloc(len(stops) + 1, sizeof(flm_bytes))
            if biases is NULL or strings is NULL:
                raise MemoryError
            for i in range(len(bias_items)):
                biases[i].token, biases[i].value = bias_items[i]
            for i in range(len(stops)):
                strings[i].data = <const uint8_t *><const char *>(<bytes>stops[i])
                strings[i].n_bytes = len(<bytes>stops[i])
            s.biases, s.n_biases = biases, len(bias_items)
            s.stops, s.n_stops = strings, len(stops)
            _check(flm_request_create(session.handle, &prompt[0] if prompt.shape[0] else NULL, prompt.shape[0], &s,
                                      &self.handle, &error), &error)
        finally:
            free(biases)
            free(strings)
        self.session = session
        self.model = session.model
        self.model.holds += 1

    def __dealloc__(self):
        self.close()

    cpdef close(self):
        if self.model is None:
            return
        with nogil:
            flm_request_destroy(self.handle)
        self.handle = NULL
        self.model.release()
        self.model = None
        self.session = None

    def cancel(self):
        if self.handle is not NULL:
            flm_request_cancel(self.handle)

    def wait(self, bint wait_all=False, cancel=None):
        cdef flm_progress p
        cdef flm_error error
        cdef flm_status status
        cdef _Poll poll = _Poll(cancel)
        cdef size_t t, k
        if self.model is None:
            raise errors.StateError("the request is closed")
        self.model.hold()
        try:
            with nogil:
                status = flm_request_wait(self.handle, wait_all, &poll.poll, &p, &error)
            poll.check(status, &error)
            tokens = [p.tokens[t] for t in range(self.n_tokens, p.n_tokens)]
            text = (<const char *>p.text)[self.text_bytes:p.text_bytes] if p.text_bytes > self.text_bytes else b""
            logprobs = []
            k = p.logprobs_per_token
            for t in range(self.n_tokens, p.n_tokens if k else self.n_tokens):
                logprobs.append([(p.logprobs[i].token, p.logprobs[i].logprob) for i in range(t * k, t * k + k)])
            self.n_tokens = p.n_tokens
            self.text_bytes = p.text_bytes
            return Progress(tokens, text, logprobs, _FINISHES[p.finish], p.prompt_tokens, p.prefix_hit_tokens,
                            p.prompt_done, p.prompt_seconds, p.decode_seconds)
        finally:
            self.model.release()
