# Adapters, sessions, steps and requests; a part of _core.pyx.


@cython.final
@cython.no_gc
cdef class Adapter(_Handle):
    cdef flm_adapter *handle
    cdef Model model

    def __dealloc__(self):
        self.free()

    cdef void free(self) noexcept:
        cdef flm_adapter *handle = self.handle
        cdef Model model = self.model
        self.handle = NULL
        self.model = None
        if model is not None:
            with nogil: flm_adapter_destroy(handle)
            model.release()

    cdef int hold(self) except -1:
        if self.closed or self.model is None:
            raise errors.StateError("the adapter is unloaded")
        self.holds += 1
        return 0


@cython.final
@cython.no_gc
cdef class Session(_Handle):
    cdef flm_session *handle
    cdef Model model
    cdef readonly size_t source  # tokens that cross-attention looks at
    cdef Adapter adapter

    def __dealloc__(self):
        self.free()

    cdef void free(self) noexcept:
        cdef flm_session *handle = self.handle
        cdef Model model = self.model
        self.handle = NULL
        self.model = None
        if model is not None:
            with nogil: flm_session_destroy(handle)
            model.release()

    cdef int hold(self) except -1:
        if self.closed or self.model is None:
            raise errors.StateError("the session is closed")
        if self.model.closed:
            raise errors.StateError("the model of this session is closed")
        self.holds += 1
        return 0

    def set_adapter(self, Adapter adapter):
        cdef flm_error error
        cdef flm_status status
        cdef flm_adapter *handle = NULL
        cdef _Poll call = _Poll()
        self.hold()
        try:
            if adapter is not None:
                adapter.hold()
                handle = adapter.handle
            with nogil: status = flm_session_set_adapter(self.handle, handle, &error)
            if adapter is not None: adapter.release()
        finally:
            self.release()
        call.check(status, &error)
        if adapter is not self.adapter: self.source = 0
        self.adapter = adapter

    def set_salt(self, uint16_t salt):
        cdef flm_error error
        cdef flm_status status
        cdef _Poll call = _Poll()
        self.hold()
        try:
            with nogil: status = flm_session_set_salt(self.handle, salt, &error)
        finally:
            self.release()
        call.check(status, &error)

    def fork(self):
        cdef flm_error error
        cdef flm_status status
        cdef Session twin = Session.__new__(Session)
        cdef _Poll call = _Poll()
        self.hold()
        self.model.holds += 1
        twin.model = self.model
        twin.source = self.source
        twin.adapter = self.adapter
        with nogil: status = flm_session_fork(self.handle, &twin.handle, &error)
        self.release()
        call.check(status, &error)
        return twin

    def rewind(self, size_t n):
        cdef flm_error error
        cdef flm_status status
        cdef _Poll call = _Poll()
        self.hold()
        with nogil: status = flm_session_rewind(self.handle, n, &error)
        self.release()
        call.check(status, &error)

    @property
    def length(self):
        cdef size_t n
        cdef _Poll call = _Poll()
        self.hold()
        with nogil: n = flm_session_length(self.handle)
        self.release()
        call.check(FLM_OK, NULL)
        return n

    @property
    def tokens(self):
        """A copy; another thread may make the sequence longer meanwhile."""
        cdef size_t length = self.length, capacity = 0
        cdef int32_t[::1] found
        while capacity < length:
            capacity = length
            found = np.empty(capacity, np.int32)
            self.hold()
            with nogil: length = flm_session_copy_tokens(self.handle, &found[0], capacity)
            self.release()
        return np.asarray(found)[:length].tolist() if capacity else []

    def set_source(self, const int32_t[::1] ids):
        cdef flm_error error
        cdef flm_status status
        cdef _Poll call = _Poll()
        cdef const int32_t *at = &ids[0] if ids.shape[0] else NULL
        self.hold()
        with nogil: status = flm_session_set_source(self.handle, at, ids.shape[0], &error)
        self.release()
        call.check(status, &error)
        self.source = ids.shape[0]

    def encode(self, const int32_t[::1] ids, cancel=None, attentions=None):
        cdef flm_error error
        cdef flm_status status
        cdef flm_model_info info
        cdef _Poll poll = _Poll(cancel)
        cdef const int32_t *at = &ids[0] if ids.shape[0] else NULL
        cdef float *to = NULL
        self.hold()
        try:
            with nogil: flm_model_info_get(self.model.handle, &info)
            if attentions is not None:
                to = _attentions(attentions, info.encoder_heads, ids.shape[0], ids.shape[0])
            with nogil:
                status = flm_session_encode(self.handle, at, ids.shape[0], to, &poll.poll, &error)
        finally:
            self.release()
        poll.check(status, &error)
        self.source = ids.shape[0]


def forward(Model model, items, cancel=None):
    cdef flm_error error
    cdef flm_status status
    cdef _Poll poll = _Poll(cancel)
    cdef flm_model_info info
    cdef flm_item *c_items = <flm_item *>calloc(max(len(items), 1), sizeof(flm_item))
    cdef size_t n = len(items), i
    cdef Session session
    cdef Adapter adapter
    cdef list held = []
    if c_items is NULL:
        raise MemoryError
    try:
        model.hold()
        held.append(model)
        with nogil: flm_model_info_get(model.handle, &info)
        for i in range(n):
            session = items[i].session
            if session is not None:
                session.hold()
                held.append(session)
                c_items[i].session = session.handle
            elif items[i].adapter is not None:
                adapter = items[i].adapter
                adapter.hold()
                held.append(adapter)
                c_items[i].adapter = adapter.handle
            _fill_item(&c_items[i], items[i], &info)
        with nogil:
            status = flm_forward(model.handle, c_items, n, &poll.poll, &error)
        poll.check(status, &error)
    finally:
        for handle in held:
            (<_Handle>handle).release()
        free(c_items)


cdef int _fill_texts(flm_item *c, const int32_t *at, const int64_t[::1] ends, const int64_t[::1] order, texts,
                     const flm_model_info *info) except -1:
    """An item for each text, in the order in which they are to run: what of the arrays is its own."""
    cdef const int32_t *types = NULL if texts.types is None else _ids(texts.types)
    cdef flm_rows rows = _ROWS[texts.rows]
    cdef size_t total = ends[ends.shape[0] - 1], start, place
    cdef Adapter adapter = texts.adapter
    cdef Py_ssize_t k
    cdef float *logits = _floats(texts.logits, (total if rows == FLM_ROWS_ALL else <size_t>ends.shape[0]) * info.outputs,
                                 "logits")
    cdef float *hidden = _floats(texts.hidden, total * info.width, "hidden")
    for k in range(order.shape[0]):
        place = order[k]
        start = ends[place - 1] if place else 0
        c[k].tokens = at + start
        c[k].n_tokens = ends[place] - start
        c[k].rows = rows
        if types is not NULL: c[k].types = types + start
        if adapter is not None: c[k].adapter = adapter.handle
        if logits is not NULL: c[k].logits = logits + (start if rows == FLM_ROWS_ALL else place) * info.outputs
        if hidden is not NULL: c[k].hidden = hidden + start * info.width
    return 0


def read_texts(Model model, texts, cancel=None):
    cdef flm_error error
    cdef flm_status status
    cdef _Poll poll = _Poll(cancel)
    cdef flm_model_info info
    cdef const int32_t[::1] ids = texts.ids
    cdef const int64_t[::1] order = texts.order
    cdef size_t n = order.shape[0]
    cdef Adapter adapter = texts.adapter
    cdef flm_item *items = <flm_item *>calloc(max(n, 1), sizeof(flm_item))
    if items is NULL:
        raise MemoryError
    try:
        if adapter is not None: adapter.hold()
        try:
            model.hold()
            try:
                with nogil: flm_model_info_get(model.handle, &info)
                _fill_texts(items, &ids[0], texts.ends, order, texts, &info)
                with nogil:
                    status = flm_forward(model.handle, items, n, &poll.poll, &error)
            finally:
                model.release()
        finally:
            if adapter is not None: adapter.release()
        poll.check(status, &error)
    finally:
        free(items)


@cython.final
@cython.no_gc
cdef class Request(_Handle):
    cdef flm_request *handle
    cdef Model model
    cdef Model draft  # held: proposes tokens; None: no model does
    cdef object __weakref__
    cdef size_t n_tokens, text_bytes

    def __init__(self, Session session, const int32_t[::1] prompt, dict sampling):
        cdef flm_sampling s
        cdef flm_error error
        cdef flm_status status
        cdef _Lists lists = _Lists()
        cdef _Poll call = _Poll()
        cdef const int32_t *at = &prompt[0] if prompt.shape[0] else NULL
        cdef Model draft = sampling.get("draft")
        if self.handle is not NULL:
            raise errors.StateError("the request exists already")
        flm_sampling_defaults(&s)
        _set_numbers(&s, sampling)
        lists.fill(&s, sampling)
        session.hold()
        try:
            if draft is not None:
                draft.hold()
                s.draft = draft.handle
                self.draft = draft
            with nogil:
                status = flm_request_create(session.handle, at, prompt.shape[0], &s, &self.handle, &error)
            call.check(status, &error)
            self.model = session.model
            self.model.holds += 1
        finally:
            session.release()

    def __dealloc__(self):
        self.free()

    cdef void free(self) noexcept:
        cdef flm_request *handle = self.handle
        cdef Model model = self.model
        cdef Model draft = self.draft
        self.handle = NULL
        self.model = self.draft = None
        if model is not None:
            with nogil: flm_request_destroy(handle)
            model.release()
        if draft is not None:
            draft.release()

    cdef int hold(self) except -1:
        if self.closed or self.model is None:
            raise errors.StateError("the request is closed")
        if self.model.closed:
            raise errors.StateError("the model is closed")
        self.holds += 1
        return 0

    def close(self):
        """At once, or when the call that waits for it returns, which is soon."""
        if self.holds:
            self.cancel()
        _Handle.close(self)

    def cancel(self):
        if self.handle is not NULL:
            flm_request_cancel(self.handle)

    def post(self, Inbox inbox, uint64_t id, bint wait_all):
        cdef flm_error error
        cdef flm_status status
        self.hold()
        with nogil: status = flm_request_post(self.handle, inbox.handle, id, wait_all, &error)
        self.release()
        _check(status, &error)

    def tell_masks(self, Inbox inbox, uint64_t id):
        cdef flm_error error
        cdef flm_status status
        self.hold()
        with nogil: status = flm_request_tell_masks(self.handle, inbox.handle, id, &error)
        self.release()
        _check(status, &error)

    def wanted(self):
        cdef size_t n
        cdef int32_t token
        cdef bint wants = False
        if self.handle is not NULL:  # also of a closed model, whose calls go on to their ends
            self.holds += 1
            with nogil: wants = flm_request_wants_mask(self.handle, &n, &token)
            self.release()
        return (n, token) if wants else None

    def mask(self, size_t n_tokens, const uint32_t[::1] bits=None):
        cdef flm_error error
        cdef flm_status status = FLM_OK
        cdef const uint32_t *at = NULL if bits is None else &bits[0]
        cdef size_t n_words = 0 if bits is None else bits.shape[0]
        if self.handle is not NULL:
            self.holds += 1
            with nogil: status = flm_request_mask(self.handle, n_tokens, at, n_words, &error)
            self.release()
        _check(status, &error)

    def wait(self, bint wait_all=False, cancel=None):
        cdef flm_progress p
        cdef flm_error error
        cdef flm_status status
        cdef _Poll poll = _Poll(cancel)
        cdef size_t t, k
        self.hold()
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
                            p.prompt_done, p.prompt_seconds, p.decode_seconds, p.prompt_cpu_seconds, p.cpu_seconds,
                            p.threads, p.n_best, p.draft_proposed, p.draft_accepted)
        finally:
            self.release()

    def best(self, size_t i):
        """The i-th best text of a beam search that has ended."""
        cdef flm_best b
        cdef flm_error error
        cdef flm_status status
        cdef _Poll call = _Poll()
        cdef size_t t
        self.hold()
        try:
            with nogil: status = flm_request_best(self.handle, i, &b, &error)
            call.check(status, &error)
            text = (<const char *>b.text)[:b.text_bytes] if b.text_bytes else b""
            return Best([b.tokens[t] for t in range(b.n_tokens)], text, b.score, _FINISHES[b.finish])
        finally:
            self.release()
