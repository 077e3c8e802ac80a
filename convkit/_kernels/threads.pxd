"""The one door to threads, for the other extension modules."""

# One task: `ctx` is shared by all tasks of a call, `index` numbers this one, `slot` the
# thread it runs on (0 <= slot < threads; for scratch memory, never for the result).
ctypedef void (*task_fn)(void* ctx, Py_ssize_t index, int slot) noexcept nogil

# Runs fn(ctx, i, slot) for 0 <= i < count on at most `threads` threads and waits. Tasks
# may run in any order: each must write only what is its own.
cdef void parallel_for(task_fn fn, void* ctx, Py_ssize_t count, int threads) noexcept nogil

# How many threads are worth using for `count` tasks costing `work` elementary operations
# (multiply-adds, or bytes moved) in all: small work stays on one thread.
cdef int threads_for(int threads, Py_ssize_t count, double work) noexcept nogil
