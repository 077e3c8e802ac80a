"""Steps that compiled code runs one after the other; every kernel module offers some.

A step is a function, a struct of parameters that holds all that does not depend on the call,
and Python objects that must live as long. Operands are addresses; which is which is each
module's to say. Anything that depends on the number of samples or threads is worked out by
the function, from the parameters, without the GIL.
"""

# Runs on `samples` samples with at most `threads` threads; `scratch` has as many bytes as the
# scratch function said for the same numbers, aligned to 64. Returns 0, or 1 where the step's
# `recover` is to do the work (with the GIL): numbers came up that the kernel cannot take.
ctypedef int (*step_fn)(const void* params, char** at, Py_ssize_t samples, int threads,
                        char* scratch) noexcept nogil
ctypedef size_t (*scratch_fn)(const void* params, Py_ssize_t samples, int threads) noexcept nogil

cdef class Step:
    cdef step_fn run
    cdef scratch_fn scratch         # NULL where none is needed
    cdef void* params
    cdef object kept
    cdef public object recover      # recover(addresses, samples, threads, scratch's address)
    cdef public bint adds_in_place  # whether the residual may lie where y does

# A step that holds a copy of `size` bytes of parameters.
cdef Step new_step(step_fn run, scratch_fn scratch, const void* params, size_t size, object kept)

# Runs a step's function at once, with scratch from the pool: what eager calls do.
cdef int launch(step_fn run, scratch_fn scratch, const void* params, char** at,
                Py_ssize_t samples, int threads) except -1
