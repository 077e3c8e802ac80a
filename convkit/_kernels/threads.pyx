"""The one door to threads: every parallel loop of convkit goes through `parallel_for`.

The cut into tasks is the caller's and depends on the problem alone; the number of threads
only decides who runs a task. Inside, denormals are flushed to zero; the state of the
calling thread is restored on leaving. The worker threads are c/team.h's.
"""

cdef extern from "fpstate.h" nogil:
    unsigned ck_fp_enter()
    void ck_fp_leave(unsigned before)

cdef extern from "team.h" nogil:
    int CK_HAVE_THREADS
    void ck_share(task_fn fn, void* ctx, Py_ssize_t count, int threads)
    void ck_watch_fork()

# Waking a worker costs about 5 microseconds: worth it from some 30 microseconds of work.
cdef double WORK_PER_THREAD = 120_000.0

ck_watch_fork()


def have_threads():
    """Tell whether the kernels can use more than one thread on this platform."""
    return bool(CK_HAVE_THREADS)


def set_work_per_thread(double work):
    """Set how much work is worth a thread of its own; return what it was.

    Results do not depend on it. Tests set 0, so that small problems use several threads.
    """
    global WORK_PER_THREAD
    cdef double before = WORK_PER_THREAD
    WORK_PER_THREAD = work
    return before


cdef int threads_for(int threads, Py_ssize_t count, double work) noexcept nogil:
    cdef double most = work / WORK_PER_THREAD if WORK_PER_THREAD > 0 else threads
    if most < threads:
        threads = <int>most
    if count < threads:
        threads = <int>count
    return threads if threads > 1 else 1


cdef void _run_serial(task_fn fn, void* ctx, Py_ssize_t count) noexcept nogil:
    cdef unsigned state = ck_fp_enter()
    cdef Py_ssize_t i
    for i in range(count):
        fn(ctx, i, 0)
    ck_fp_leave(state)


cdef void parallel_for(task_fn fn, void* ctx, Py_ssize_t count, int threads) noexcept nogil:
    if count < threads:
        threads = <int>count
    if threads <= 1:
        _run_serial(fn, ctx, count)
    else:
        ck_share(fn, ctx, count, threads)
