"""Reused memory, for the other extension modules (usable without the GIL)."""

# `size` bytes aligned to 64, from the pool if it has a block; NULL when memory is out.
cdef void* take(size_t size) noexcept nogil

# Gives back what `take(size)` returned. NULL is allowed.
cdef void give(void* pointer, size_t size) noexcept nogil

# A new array over pooled memory; see the Python function of this name.
cpdef empty(shape, dtype=*, apart=*)
