"""The one door to threads: every parallel loop of convkit goes through `parallel_for`.

The cut into tasks is the caller's and depends on the problem alone; the number of threads
only decides who runs a task. Inside, denormals are flushed to zero; the state of the
calling thread is restored on leaving.

The threads are those of c/team.h, which all callers share, or with CONVKIT_THREADING=openmp
those of OpenMP, where the build found it: a team for each calling thread.
"""

import os

from cython.parallel cimport parallel, prange, threadid

cdef extern from "fpstate.h" nogil:
    unsigned ck_fp_enter()
    void ck_fp_leave(unsigned before)

cdef extern from "team.h" nogil:
    int CK_HAVE_THREADS
    void ck_share(task_fn fn, void* ctx, Py_ssize_t count, int threads)
    void ck_watch_fork()
    int ck_forked()

cdef extern from *:
    """
    #ifdef _OPENMP
    #define CK_HAVE_OPENMP 1
    #else
    #define CK_HAVE_OPENMP 0
    #endif
    """
    int CK_HAVE_OPENMP

# Handing tasks to a worker that is still awake from the call before costs a quarter of a microsecond,
# and what it is given lies in another core's cache; one that sleeps begins after 5: worth it from some
# 4 to 8 microseconds of work.
cdef double WORK_PER_THREAD = 12_000.0

ck_watch_fork()


def have_threads():
    """Tell whether the kernels can use more than one thread on this platform."""
    return bool(CK_HAVE_THREADS or CK_HAVE_OPENMP)


def have_openmp():
    """Tell whether the kernels were built with OpenMP."""
    return bool(CK_HAVE_OPENMP)


def threading():
    """Return whose threads are used: "workers" or "openmp"."""
    return "openmp" if USE_OPENMP else "workers"


cdef bint _use_openmp() except -1:
    """Read CONVKIT_THREADING; by default OpenMP only where there are no threads of our own."""
    wanted = os.environ.get("CONVKIT_THREADING", "workers" if CK_HAVE_THREADS else "openmp")
    if wanted not in ("workers", "openmp"):
        raise ValueError(f"CONVKIT_THREADING: expected 'workers' or 'openmp', got {wanted!r}")
    if wanted == "openmp" and not CK_HAVE_OPENMP:
        if "CONVKIT_THREADING" in os.environ:
            raise ValueError("CONVKIT_THREADING=openmp: convkit was built without OpenMP")
        return False
    return wanted == "openmp"


cdef bint USE_OPENMP = _use_openmp()


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


cdef void _run_openmp(task_fn fn, void* ctx, Py_ssize_t count, int threads) noexcept nogil:
    cdef Py_ssize_t i
    cdef unsigned state = 0
    with parallel(num_threads=threads):
        state = ck_fp_enter()
        for i in prange(count, schedule="dynamic", chunksize=1):
            fn(ctx, i, threadid())
        ck_fp_leave(state)


cdef void parallel_for(task_fn fn, void* ctx, Py_ssize_t count, int threads) noexcept nogil:
    if count < threads:
        threads = <int>count
    if threads <= 1:
        _run_serial(fn, ctx, count)
    elif USE_OPENMP and not ck_forked():     # whose threads do not survive a fork
        _run_openmp(fn, ctx, count, threads)
    else:
        ck_share(fn, ctx, count, threads)
