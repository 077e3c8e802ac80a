"""Choice of the instruction set, once, at import."""

import os

cdef extern from "cpu.h" nogil:
    int ck_cpu_best_isa()
    int ck_cpu_preferred_isa()
    const char* ck_isa_name(int isa)
    void ck_cpu_name(char* out, int size)
    int ck_cpu_has_vnni()
    int ck_cpu_has_fp16()
    int CK_ISA_COUNT

cdef extern from "table.h" nogil:
    const ck_table* ck_table_for(int isa)

cdef const ck_table* _chosen = NULL
cdef ck_table _emulated


cdef const ck_table* table() noexcept nogil:
    return _chosen


def supported_isas():
    """Return the instruction sets that this machine can run, lowest first."""
    return [ck_isa_name(i).decode() for i in range(ck_cpu_best_isa() + 1)
            if ck_table_for(i) != NULL]


def isa():
    """Return the name of the instruction set in use."""
    return (<bytes>_chosen.name).decode()


def has_bfloat16():
    """Tell whether the kernels in use multiply bfloat16, on tiles or on vectors."""
    return _chosen.tile != NULL


def has_tiles():
    """Tell whether they do so on tiles (AMX)."""
    return _chosen.winograd_tile != NULL


def has_vnni():
    """Tell whether the CPU multiplies bytes by AVX-512 VNNI."""
    return bool(ck_cpu_has_vnni())


def has_vnni_winograd():
    """Tell whether the kernels in use multiply Winograd's transformed pixels as 16-bit integers."""
    return _chosen.winograd_vnni != NULL and bool(ck_cpu_has_vnni())


def has_halves():
    """Tell whether the kernels in use can compute in float16 (AVX512-FP16)."""
    return _chosen.half != NULL and bool(ck_cpu_has_fp16())


def emulate_tiles(size_t tile, size_t int8, size_t tilegrad, size_t winograd):
    """Use tile kernels from elsewhere beside the kernels in use, until the process ends.

    For tests on CPUs without AMX: they compile the tile kernels with the tile instructions
    written out in C, and give the addresses of the four tables that isa_amx.c exports.

    Parameters
    ----------
    tile, int8, tilegrad, winograd : int
        Addresses of a `ck_tile_table`, a `ck_int8_kernels`, a `ck_tilegrad_table` and a
        `ck_winograd_kernels` that are never freed.
    """
    global _emulated, _chosen
    _emulated = _chosen[0]
    _emulated.name = "amx-emulated"
    _emulated.tile = <const ck_tile_table*>tile
    _emulated.int8_tile = <const ck_int8_kernels*>int8
    _emulated.tilegrad = <const ck_tilegrad_table*>tilegrad
    _emulated.winograd_tile = <const ck_winograd_kernels*>winograd
    _chosen = &_emulated


def vector_bytes():
    """Return the width in bytes of the vectors in use."""
    return _chosen.vector_bytes


def cpu_name():
    """Return the CPU's brand string, or 'unknown'."""
    cdef char name[64]
    ck_cpu_name(name, 64)
    return (<bytes>name).decode("ascii", "replace").strip()


cdef _choose(wanted):
    """Set the table from the value of CONVKIT_ISA (empty or None: the best there is)."""
    global _chosen
    names = [ck_isa_name(i).decode() for i in range(CK_ISA_COUNT)]
    can = supported_isas()
    best = names[ck_cpu_preferred_isa()]
    name = wanted.strip().lower() if wanted else best if best in can else can[-1]
    if name not in names:
        raise ImportError(
            f"CONVKIT_ISA={wanted!r} is not an instruction set; expected one of {', '.join(names)}")
    if name not in can:
        raise ImportError(
            f"CONVKIT_ISA={name} asked for, but this CPU ({cpu_name()}) and build "
            f"support only {', '.join(can)}")
    _chosen = ck_table_for(names.index(name))


_choose(os.environ.get("CONVKIT_ISA"))
