"""What kernels need of an array: a pointer, a number type, and the certainty that it fits."""

cimport numpy as cnp


cdef inline int real_index(cnp.ndarray x) except -1:
    """Return 0 for float32 and 1 for float64, the index into a table's pair of kernels."""
    cdef int kind = cnp.PyArray_TYPE(x)
    if kind == cnp.NPY_FLOAT32:
        return 0
    if kind == cnp.NPY_FLOAT64:
        return 1
    raise TypeError(f"kernel called with an array of {x.dtype}, expected float32 or float64")


cdef inline void* pointer(cnp.ndarray x, int kind, Py_ssize_t size) except? NULL:
    """Return the data of a C-contiguous array of `size` numbers of the type `kind`."""
    if not cnp.PyArray_IS_C_CONTIGUOUS(x) or not cnp.PyArray_ISBEHAVED_RO(x):
        raise ValueError("kernel called with an array that is not contiguous in memory")
    if real_index(x) != kind:
        raise TypeError(f"kernel called with arrays of different types, one of {x.dtype}")
    if cnp.PyArray_SIZE(x) != size:
        raise ValueError(f"kernel called with {cnp.PyArray_SIZE(x)} numbers, expected {size}")
    return cnp.PyArray_DATA(x)


cdef inline void* out_pointer(cnp.ndarray x, int kind, Py_ssize_t size) except? NULL:
    """Return the data of such an array that is written to."""
    if not cnp.PyArray_ISWRITEABLE(x):
        raise ValueError("kernel called with a read-only array for its result")
    return pointer(x, kind, size)


cdef inline char* halves(cnp.ndarray x, Py_ssize_t size) except NULL:
    """Return the data of a C-contiguous array of `size` bfloat16 numbers, held as uint16."""
    if (cnp.PyArray_TYPE(x) != cnp.NPY_UINT16 or cnp.PyArray_SIZE(x) != size
            or not cnp.PyArray_IS_C_CONTIGUOUS(x) or not cnp.PyArray_ISBEHAVED_RO(x)):
        raise TypeError(f"kernel called with an array of {x.dtype} and {cnp.PyArray_SIZE(x)} "
                        f"numbers, expected {size} of bfloat16, contiguous in memory")
    return <char*>cnp.PyArray_DATA(x)


cdef inline char* out_halves(cnp.ndarray x, Py_ssize_t size) except NULL:
    """Return the data of such an array that is written to."""
    if not cnp.PyArray_ISWRITEABLE(x):
        raise ValueError("kernel called with a read-only array for its result")
    return halves(x, size)
