"""Strips: rows of an input image copied with their zero padding in place."""

from libc.string cimport memcpy, memset


cdef struct Source:
    Py_ssize_t height, width   # of the image, in pixels
    Py_ssize_t pixel           # bytes of a pixel
    Py_ssize_t left            # the image column at which strips begin; may be negative
    Py_ssize_t strip_width     # pixels of a strip's row


cdef inline void fill_strip(const Source* source, const char* image, Py_ssize_t first,
                            Py_ssize_t count, char* strip) noexcept nogil:
    """Copy `count` image rows from row `first` on into a strip, zeros outside the image."""
    cdef Py_ssize_t pixel = source.pixel
    cdef Py_ssize_t left = max(0, min(-source.left, source.strip_width))
    cdef Py_ssize_t skip = max(0, source.left)
    cdef Py_ssize_t inside = max(0, min(source.width - skip, source.strip_width - left))
    cdef Py_ssize_t right = source.strip_width - left - inside
    cdef Py_ssize_t row
    for row in range(first, first + count):
        if row < 0 or row >= source.height:
            memset(strip, 0, source.strip_width * pixel)
        else:
            memset(strip, 0, left * pixel)
            memcpy(strip + left * pixel, image + (row * source.width + skip) * pixel,
                   inside * pixel)
            memset(strip + (left + inside) * pixel, 0, right * pixel)
        strip += source.strip_width * pixel
