"""What pixels are made of while they are read: bfloat16, or a batch norm's input, which may be that as
well (`ops.kept.Remade`)."""

from libc.math cimport INFINITY
from libc.stdint cimport uint16_t

import numpy as np

from convkit._kernels.address cimport address
from convkit._kernels.dispatch cimport ck_norm_kept, table


# (x - center) * scale + shift, activated, as `norm.affine` computes it, or `norm.affine_kept` of
# `halves`; one of each per channel. The numbers themselves where `scale` is NULL. Where it `rounds`,
# bfloat16 is made: of halves, with a scale.
cdef struct Maker:
    const char* center
    const char* scale
    const char* shift
    int activation
    bint halves, rounds
    double low, high
    Py_ssize_t channels


cdef inline Maker maker_of(tuple numbers, Py_ssize_t channels, bint halves=False) except *:
    """Return the maker of (center, scale, shift, ends), as `Kept.source` gives them, or of None."""
    cdef Maker m
    m.channels, m.halves, m.rounds = channels, halves, False
    m.center = m.scale = m.shift = NULL
    m.activation, m.low, m.high = 0, -INFINITY, INFINITY
    if numbers is None:
        return m
    center, scale, shift, (low, high) = numbers
    for array in (center, scale, shift):
        if array.shape != (channels,) or array.dtype != np.float32:
            raise ValueError(f"expected ({channels},) numbers of float32, got {array.shape} of "
                             f"{array.dtype}")
    m.center = <const char*>address(center)
    m.scale = <const char*>address(scale)
    m.shift = <const char*>address(shift)
    m.low, m.high = low, high
    # enum ck_activation: none, relu, or a clamp.
    m.activation = 2 if m.high < INFINITY else m.low == 0
    return m


cdef inline void make(const Maker* m, const char* x, char* to, Py_ssize_t pixels) noexcept nogil:
    """Make some pixels of `x`."""
    cdef ck_norm_kept run
    if not m.halves:
        table().norm.affine[0](x, NULL, to, pixels, m.channels, m.center, m.scale, m.shift,
                               m.activation, m.low, m.high)
    elif m.scale == NULL:
        table().norm.widen(<const uint16_t*>x, <float*>to, pixels * m.channels)
    else:
        run.x, run.residual, run.kept = NULL, NULL, <uint16_t*>x
        run.y = NULL if m.rounds else <float*>to
        run.rounded = <uint16_t*>to if m.rounds else NULL
        run.center, run.scale = <const float*>m.center, <const float*>m.scale
        run.shift = <const float*>m.shift
        run.low, run.high = m.low, m.high
        run.residual_half, run.rounds, run.stream = False, True, False
        table().norm.affine_kept(&run, pixels, m.channels)
