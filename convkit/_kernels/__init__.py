"""All compiled code: kernels over arrays and numbers, which know nothing of layers.

Layers of this package, lowest first:

``c/``             micro-kernels in C, one table of pointers per instruction set
``dispatch.pyx``   which table is used, chosen once at import
``threads.pyx``    the one door to threads: ``parallel_for`` over numbered tasks
``copies.pyx``     copies between arrays that lie differently in memory
``memory.pyx``     reused array memory and per-thread scratch
the other .pyx     one family of kernels each: loops, packing and the cut into tasks

Every function here takes C-contiguous channels-last arrays, checks nothing that would
cost time but never trusts sizes across arrays, releases the GIL and takes the number of
threads as an argument. Validation with readable messages is the job of ``convkit.ops``.

All compiled modules lie in one file, that of ``native``: a file for each would be 600 KB more.
"""

import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec

from . import native


class Finder:
    """Finds the compiled modules of this package in the file of `native`."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return where the module lies, or None for those of others."""
        package, _, module = name.rpartition(".")
        if package != __name__ or module not in native.names:
            return None
        spec = ModuleSpec(name, ExtensionFileLoader(name, native.__file__), origin=native.__file__)
        spec.has_location = True  # the module gets its __file__
        return spec


# Before the finder of files, which could come upon what an earlier build has left.
sys.meta_path.insert(0, Finder)
