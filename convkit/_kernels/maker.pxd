"""What float32 pixels are made of while they are read: a batch norm's input (`ops.kept.Remade`)."""

from libc.math cimport INFINITY

import numpy as np

from convkit._kernels.address cimport address
from convkit._kernels.dispatch cimport table


# (x - center) * scale + shift, activated, as `norm.affine` computes it; one of each per channel.
cdef struct Maker:
    const char* center
    const char* scale
    const char* shift
    int activation
    double low, high
    Py_ssize_t channels


cdef inline Maker maker_of(tuple numbers, Py_ssize_t channels) except *:
    """Return the maker of (center, scale, shift, ends), as `Kept.source` gives them."""
    cdef Maker m
    center, scale, shift, (low, high) = numbers
    for array in (center, scale, shift):
        if array.shape != (channels,) or array.dtype != np.float32:
            raise ValueError(f"expected ({channels},) numbers of float32, got {array.shape} of "
                             f"{array.dtype}")
    m.center = <const char*>address(center)
    m.scale = <const char*>address(scale)
    m.shift = <const char*>address(shift)
    m.low, m.high, m.channels = low, high, channels
    # enum ck_activation: none, relu, or a clamp.
    m.activation = 2 if m.high < INFINITY else m.low == 0
    return m


cdef inline void make(const Maker* m, const char* x, char* to, Py_ssize_t pixels) noexcept nogil:
    """Make some pixels of `x`."""
    table().norm.affine[0](x, NULL, to, pixels, m.channels, m.center, m.scale, m.shift,
                           m.activation, m.low, m.high)
