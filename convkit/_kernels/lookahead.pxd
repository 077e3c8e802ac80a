"""Fetching memory ahead of its use, a little with each step of computation.

A tile computes from the first two cache levels at nearly the multiply-add rate; what costs
is waiting for the next rows to come from farther away. The tiles of a row are each given a
piece of what the next row needs, and fetch it while they compute.
"""

from convkit._kernels.gemm cimport ck_gemm_args


cdef enum:
    RANGES = 3
    LINE = 64


cdef struct LookAhead:
    const char* first[RANGES]
    Py_ssize_t size[RANGES]
    int count, at
    Py_ssize_t step      # bytes to fetch with each step of a tile
    Py_ssize_t piece     # and with each tile


cdef inline void look_at(LookAhead* ahead, const char* first, Py_ssize_t size,
                         const char* low, const char* high) noexcept nogil:
    """Add `size` bytes from `first` on, those within [low, high), to what is to be fetched."""
    cdef const char* end = min(first + size, high)
    first = max(first, low)
    if end > first:
        ahead.first[ahead.count] = first
        ahead.size[ahead.count] = end - first
        ahead.count += 1


cdef inline void spread(LookAhead* ahead, Py_ssize_t tiles, Py_ssize_t steps) noexcept nogil:
    """Divide what is to be fetched among `tiles` tiles of `steps` steps."""
    cdef Py_ssize_t total = 0, i
    for i in range(ahead.count):
        total += ahead.size[i]
    ahead.at = 0
    ahead.step = min(<Py_ssize_t>LINE, total // (tiles * steps) + 1)
    ahead.piece = ahead.step * steps


cdef inline void aim(LookAhead* ahead, ck_gemm_args* args) noexcept nogil:
    """Give the next tile, whose reduction `args` holds already, its piece."""
    cdef int at
    while ahead.at < ahead.count and ahead.size[ahead.at] <= 0:
        ahead.at += 1
    at = ahead.at
    if at == ahead.count:
        args.fetch = NULL
        return
    args.fetch = ahead.first[at]
    args.fetch_step = ahead.step
    args.fetch_block = ahead.step * args.k
    ahead.first[at] += ahead.piece
    ahead.size[at] -= ahead.piece
