"""Fetching memory ahead of its use, a little with each tile of computation.

A tile computes from the first two cache levels at nearly the multiply-add rate; what costs
is waiting for the next rows to come from farther away. Fetched in small steps between
tiles, they come while the tiles compute.
"""

cdef extern from *:
    """
    #define CK_PREFETCH_L2(p) __builtin_prefetch((p), 0, 2)
    """
    void CK_PREFETCH_L2(const void* p) noexcept nogil


cdef struct LookAhead:
    const char* next
    const char* end
    Py_ssize_t step      # bytes per call


cdef inline void look_at(LookAhead* ahead, const char* first, Py_ssize_t size,
                         const char* low, const char* high, Py_ssize_t calls) noexcept nogil:
    """Plan to fetch `size` bytes from `first` on, within [low, high), in `calls` steps."""
    ahead.next = max(first, low)
    ahead.end = min(first + size, high)
    ahead.step = (size // max(1, calls) + 64) // 64 * 64


cdef inline void fetch(LookAhead* ahead) noexcept nogil:
    """Fetch the next step into the second-level cache."""
    cdef const char* p = ahead.next
    cdef const char* stop = min(p + ahead.step, ahead.end)
    while p < stop:
        CK_PREFETCH_L2(p)
        p += 64
    ahead.next = p
