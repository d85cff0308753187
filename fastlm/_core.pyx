# cython: boundscheck=False, wraparound=False, embedsignature=False
"""Handles of the C core; a handle keeps what it belongs to alive.

What may wait in C for another thread runs without the interpreter's lock.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import numpy as np

from fastlm import errors

include "_translate.pxi"

cdef class _Handle:
    """An object of C. It is freed once it is closed and no call runs on it; the interpreter's lock guards the count.

    `free` forgets the pointer before it lets go of the lock, so that no other thread can come to use or free it again.
    """
    cdef Py_ssize_t holds  # calls that run, and objects that belong to it
    cdef readonly bint closed

    cdef void release(self) noexcept:
        self.holds -= 1
        self.free_if_unused()

    cdef void free_if_unused(self) noexcept:
        if self.closed and self.holds == 0:
            self.free()

    cdef void free(self) noexcept:
        pass

    def close(self):
        self.closed = True
        self.free_if_unused()


@cython.final
@cython.no_gc
cdef class Context:
    cdef flm_context *handle
    cdef object __weakref__

    def __init__(self, threads=0, isa=None, weight_bytes=0):
        cdef flm_context_options options
        cdef flm_error error
        name = None if isa is None else isa.encode()
        if self.handle is not NULL:
            raise errors.StateError("the context exists already")
        memset(&options, 0, sizeof(options))
        options.size_bytes = sizeof(options)
        options.threads = threads
        options.weight_bytes = weight_bytes
        if name is not None: options.isa = name
        _check(flm_context_create(&options, &self.handle, &error), &error)

    def __dealloc__(self):
        with nogil: flm_context_destroy(self.handle)

    @property
    def isa(self):
        return flm_context_isa(self.handle).decode()

    @property
    def threads(self):
        return flm_context_threads(self.handle)

    def drive(self, double idle_seconds):
        cdef flm_error error
        cdef flm_status status
        with nogil: status = flm_context_drive(self.handle, idle_seconds, &error)
        _check(status, &error)

    def interrupt(self):
        with nogil: flm_context_interrupt(self.handle)

    def counters(self):
        cdef flm_counters c
        flm_context_counters(self.handle, &c)
        return {"forwards": c.forwards, "tokens": c.tokens, "prefix_hit_tokens": c.prefix_hit_tokens,
                "step_seconds": c.step_seconds, "thread_seconds": c.thread_seconds,
                "tiles": [c.tiles[t] for t in range(self.threads)]}


@cython.final
@cython.no_gc
cdef class _Left:
    """A model that nobody uses any more: it goes with this object."""
    cdef flm_model *handle
    cdef Context context

    def __dealloc__(self):
        with nogil: flm_model_destroy(self.handle)


@cython.final
@cython.no_gc
cdef class Model(_Handle):
    cdef flm_model *handle
    cdef Context context

    @staticmethod
    def create(Context context, bytes spec, *, format, kv_dtype="auto", max_context=0, kv_bytes=0, prefix_cache=True):
        cdef flm_model_options options = _options(format, kv_dtype, max_context, kv_bytes, prefix_cache, False)
        cdef flm_error error
        cdef flm_status status
        cdef Model self = Model.__new__(Model)
        cdef const char *blob = spec
        cdef size_t n_bytes = len(spec)
        cdef _Poll call = _Poll()
        self.context = context
        with nogil:
            status = flm_model_create(context.handle, blob, n_bytes, &options, &self.handle, &error)
        call.check(status, &error)
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
        self.free()

    cdef void free(self) noexcept:
        cdef _Left left
        if self.handle is NULL:
            return
        left = _Left.__new__(_Left)
        left.handle, self.handle = self.handle, NULL
        left.context = self.context
        poll = _asking.get(PyThread_get_thread_ident())
        if poll is not None:
            (<_Poll>poll).left.append(left)  # this thread may be in a step of it

    cdef int hold(self) except -1:
        if self.closed or self.handle is NULL:
            raise errors.StateError("the model is closed")
        self.holds += 1
        return 0

    cdef flm_tensor tensor(self, size_t index) except *:
        cdef flm_tensor t
        cdef flm_error error
        cdef flm_status status
        with nogil: status = flm_model_tensor(self.handle, index, &t, &error)
        _check(status, &error)
        return t

    def tensors(self):
        cdef flm_tensor t
        found = []
        self.hold()
        try:
            for i in range(flm_model_tensor_count(self.handle)):
                t = self.tensor(i)
                found.append(Tensor(t.name.decode(), t.rows, t.cols, bool(t.is_matrix), _FORMAT_NAMES[t.format], t.bytes))
        finally:
            self.release()
        return found

    def set_format(self, size_t index, format):
        cdef flm_error error
        cdef flm_status status
        cdef flm_format number = FORMATS[format]
        self.hold()
        with nogil: status = flm_model_set_format(self.handle, index, number, &error)
        self.release()
        _check(status, &error)

    def spec(self):
        self.hold()
        blob = _spec_of(self.handle)
        self.release()
        return blob

    def tensor_data(self, size_t index):
        cdef _Packed packed = _Packed.__new__(_Packed)
        self.hold()
        packed.model = self
        packed.tensor = self.tensor(index)
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
            t = self.tensor(index)
            if values.shape[1] != t.cols:
                raise errors.ParameterError(f"{t.name.decode()}: got {values.shape[1]} columns, not {t.cols}")
            with nogil:
                status = flm_model_load_rows(self.handle, index, row, n_rows, at, dtype, &error)
            call.check(status, &error)
        finally:
            self.release()

    def read_rows(self, size_t index, size_t row, size_t n_rows):
        cdef flm_error error
        cdef flm_status status
        cdef float[:, ::1] values
        self.hold()
        try:
            values = np.empty((n_rows, self.tensor(index).cols), np.float32)
            if n_rows:
                with nogil: status = flm_model_read_rows(self.handle, index, row, n_rows, &values[0, 0], &error)
                _check(status, &error)
        finally:
            self.release()
        return np.asarray(values)

    def finish(self):
        cdef flm_error error
        cdef flm_status status
        cdef _Poll call = _Poll()
        self.hold()
        with nogil:
            status = flm_model_finish(self.handle, &error)
        self.release()
        call.check(status, &error)

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
        with nogil: status = flm_model_set_vocabulary(self.handle, &v, &error)
        self.release()
        _check(status, &error)

    def vocabulary(self):
        cdef flm_vocabulary v
        cdef size_t t
        self.hold()
        flm_model_vocabulary(self.handle, &v)
        try:
            pieces = [(<const char *>v.bytes)[v.offsets[t]:v.offsets[t + 1]] for t in range(v.n_tokens)]
            special = [bool(v.special[t]) for t in range(v.n_tokens)]
            return pieces, special, [v.eos[t] for t in range(v.n_eos)]
        finally:
            self.release()

    def info(self):
        cdef flm_model_info i
        cdef _Poll call = _Poll()
        self.hold()
        with nogil: flm_model_info_get(self.handle, &i)
        self.release()
        call.check(FLM_OK, NULL)
        return _describe(&i)

    def plan(self):
        self.hold()
        try:
            text = bytearray(flm_model_plan(self.handle, NULL, 0) + 1)
            flm_model_plan(self.handle, text, len(text))
        finally:
            self.release()
        return text[:-1].decode()

    def adapter(self, changes):
        cdef flm_error error
        cdef flm_status status
        cdef Adapter adapter = Adapter.__new__(Adapter)
        cdef _Poll call = _Poll()
        cdef size_t n = len(changes), i
        cdef flm_adapter_change *c = <flm_adapter_change *>calloc(n + 1, sizeof(flm_adapter_change))
        if c is NULL:
            raise MemoryError
        self.hold()
        adapter.model = self
        try:
            shapes = {t.name: (t.rows, t.cols) for t in self.tensors()}
            sites = [change.site.encode() for change in changes]
            for i in range(n):
                c[i].site = sites[i]
                _fill_change(&c[i], changes[i], shapes)
            with nogil: status = flm_adapter_create(self.handle, c, n, &adapter.handle, &error)
        finally:
            free(c)
        call.check(status, &error)
        return adapter

    def session(self):
        cdef flm_error error
        cdef flm_status status
        cdef Session session = Session.__new__(Session)
        cdef _Poll call = _Poll()
        self.hold()
        session.model = self
        with nogil: status = flm_session_create(self.handle, &session.handle, &error)
        call.check(status, &error)
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


include "_sequences.pxi"
include "_inbox.pxi"
