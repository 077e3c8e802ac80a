"""All compiled code: kernels over arrays and numbers, which know nothing of layers.

Layers of this package, lowest first:

``c/``             micro-kernels in C, one table of pointers per instruction set
``dispatch.pyx``   which table is used, chosen once at import
``threads.pyx``    the one door to OpenMP: ``parallel_for`` over numbered tasks
``memory.pyx``     reused array memory and per-thread scratch
the other .pyx     one family of kernels each: loops, packing and the cut into tasks

Every function here takes C-contiguous channels-last arrays, checks nothing that would
cost time but never trusts sizes across arrays, releases the GIL and takes the number of
threads as an argument. Validation with readable messages is the job of ``convkit.ops``.
"""


def _load_openmp() -> None:
    """Load the OpenMP runtime with waiting threads that go to sleep soon.

    By default GNU's runtime spins for some 15 ms after every parallel loop, which takes the
    processor from the host program and from other processes on the same cores (training
    in two processes on two cores ran 20 times slower). It reads its settings once, when it
    is loaded, so they are in the environment for just that moment. Settings of the user's
    own win; a runtime that another library has loaded before keeps its settings.
    """
    import os

    ours = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0"}
    users = {"OMP_WAIT_POLICY", *ours}
    ours = {} if users & os.environ.keys() else ours
    os.environ.update(ours)
    try:
        from convkit._kernels import threads  # noqa: F401
    finally:
        for name in ours:
            del os.environ[name]


_load_openmp()
