# What tells of requests that nobody waits for; a part of _core.pyx.


@cython.final
@cython.no_gc
cdef class Inbox:
    cdef flm_inbox *handle
    cdef Context context

    def __cinit__(self, Context context, int descriptor):
        cdef flm_error error
        self.context = context
        _check(flm_inbox_create(context.handle, descriptor, &self.handle, &error), &error)

    def __dealloc__(self):
        self.close()

    def take(self):
        cdef uint64_t ids[64]
        cdef size_t n = 64
        found = []
        while n == 64:
            with nogil: n = flm_inbox_take(self.handle, ids, 64)
            found += [ids[i] for i in range(n)]
        return found

    def close(self):
        cdef flm_inbox *handle = self.handle
        self.handle = NULL
        with nogil: flm_inbox_destroy(handle)
