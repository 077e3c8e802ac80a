"""All compiled code: kernels over arrays and numbers, which know nothing of layers.

Layers of this package, lowest first:

``c/``             micro-kernels in C, one table of pointers per instruction set
``dispatch.pyx``   which table is used, chosen once at import
``threads.pyx``    the one door to threads: ``parallel_for`` over numbered tasks
``memory.pyx``     reused array memory and per-thread scratch
the other .pyx     one family of kernels each: loops, packing and the cut into tasks

Every function here takes C-contiguous channels-last arrays, checks nothing that would
cost time but never trusts sizes across arrays, releases the GIL and takes the number of
threads as an argument. Validation with readable messages is the job of ``convkit.ops``.
"""
