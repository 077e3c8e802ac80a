"""Reused memory, for the other extension modules (usable without the GIL)."""

# `size` bytes aligned to 64, from the pool if it has a block; NULL when memory is out.
cdef void* take(size_t size) noexcept nogil

# Gives back what `take(size)` returned. NULL is allowed.
cdef void give(void* pointer, size_t size) noexcept nogil

# See the Python functions of these names.
cpdef empty(shape, dtype=*, apart=*)
cpdef bint alike(tuple arrays) except -1
cpdef forget(x)
