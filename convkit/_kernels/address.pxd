"""Where an array's numbers lie, for modules that need nothing else of NumPy's C interface."""

cdef extern from *:
    """
    #include <numpy/ndarraytypes.h>
    #define ck_address(array) ((size_t)PyArray_DATA((PyArrayObject *)(array)))
    """
    # Of an array, not of anything else. `array.ctypes.data` makes two objects each time, which took
    # a twentieth of a small step.
    size_t address "ck_address"(object array) noexcept
