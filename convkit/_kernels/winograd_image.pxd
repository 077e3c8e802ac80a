"""The tiles that Winograd convolution cuts an image into, and their transforms.

Tiles of all samples are numbered in one row. With a dilation of d, every d-th row and column is an
image of its own (a phase) whose tiles are numbered before those of the next.
"""

from convkit._kernels.address cimport address
from convkit._kernels cimport dispatch
from convkit._kernels.gemm cimport ck_gemm_args, ck_gemm_fn
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t
from libc.string cimport memcpy

cdef extern from "cpu.h" nogil:
    int ck_cpu_has_vnni()

cdef extern from "winograd.h" nogil:
    ctypedef struct ck_winograd_input_args:
        const float* x
        ptrdiff_t offset, row_step, pixel_step, row_from, row_to, col_from, col_to
        const float* zeros
        ptrdiff_t channels, tiles
        float* v
        ptrdiff_t position_step, tile_step, low, scale_step
        int32_t* peak
    ctypedef struct ck_winograd_output_args:
        const float* m
        ptrdiff_t position_step, tile_step, channels
        float* y
        ptrdiff_t row_step, pixel_step, rows, cols
        const float* bias
        const float* residual
        int activation
        float alpha, beta
        int32_t* peak
    ctypedef struct ck_winograd_weights_args:
        const float* w
        ptrdiff_t column_step, depth_step
        int turned
        ptrdiff_t columns, depth
        float* u
        ptrdiff_t position_step, row
        int32_t* peak
    ctypedef struct ck_winograd_taps_args:
        const float* sums
        ptrdiff_t position_step, row, columns, depth
        float* w
        ptrdiff_t column_step, depth_step
        int32_t* peak
    ctypedef void (*ck_winograd_input_fn)(const ck_winograd_input_args*) noexcept nogil
    ctypedef struct ck_winograd_tiles_args:
        const float* v
        ptrdiff_t v_position, v_tile, low
        const float* scales
        ptrdiff_t scale_step
        const float* u
        ptrdiff_t u_position
        float* m
        ptrdiff_t m_position, m_tile, positions, tiles, columns, steps
        const char* fetch
        ptrdiff_t fetch_step
    ctypedef struct ck_winograd_runs_args:
        const float* from_ "from"
        ptrdiff_t tile_step, position_step, tiles, positions
        float* to
        ptrdiff_t to_step
    ctypedef struct ck_winograd_sums_args:
        const float* v
        const float* d
        ptrdiff_t block, pairs, rows, columns
        float* sums
        ptrdiff_t row
        int accumulate
    ctypedef struct ck_winograd_kernels:
        int tile, taps, step, size, side, weight_side
        void (*products)(const ck_winograd_tiles_args*) noexcept nogil
        int rows, most_tiles, depths, depth_floats
        ck_winograd_input_fn input
        void (*output)(const ck_winograd_output_args*) noexcept nogil
        void (*weights)(const ck_winograd_weights_args*) noexcept nogil
        void (*runs)(const ck_winograd_runs_args*) noexcept nogil
        void (*sums)(const ck_winograd_sums_args*) noexcept nogil
        ck_winograd_input_fn gradient
        void (*to_taps)(const ck_winograd_taps_args*) noexcept nogil
    ctypedef struct ck_winograd_product_args:
        const float* v
        ptrdiff_t v_position, v_tile
        const float* u
        ptrdiff_t u_position
        float* m
        ptrdiff_t m_position, m_tile
        ptrdiff_t positions, depth
        const char* fetch[2]
        ptrdiff_t lines[2]
    ctypedef struct ck_winograd_table:
        int vector_length, tall_rows
        ck_gemm_fn tall
        void (*multiply[9])(const ck_winograd_product_args*) noexcept nogil
        ck_winograd_kernels forms[6]
    int CK_WINOGRAD_FORMS, CK_WINOGRAD_INT16_FORMS, CK_WINOGRAD_STRIP, CK_WINOGRAD_FEW

# Rows of input that tiles side by side are made of stay in a first-level cache.
cdef enum:
    STRIP_BYTES = 32 << 10
# Bytes of a cache line.
cdef enum:
    LINE_BYTES = 64
# Scratch memory of this size lies in huge pages.
cdef enum:
    HUGE_BYTES = 4 << 20
# Tiles that one task transforms where that is a step of its own, and depths that one task packs.
cdef enum:
    TRANSFORM_TILES = 4
    PACK_DEPTHS = 64
cdef enum:
    INFINITE_BITS = 0x7f800000


cdef inline const ck_winograd_table* winograd_table() noexcept nogil:
    return <const ck_winograd_table*>dispatch.table().winograd


cdef inline const ck_winograd_kernels* form_kernels(int tile, int taps, int step) except NULL:
    """Return the kernels of F(tile x tile, taps x taps) on tiles `step` pixels of the input apart."""
    cdef const ck_winograd_kernels* form
    cdef int i
    for i in range(CK_WINOGRAD_FORMS):
        form = &winograd_table().forms[i]
        if form.tile == tile and form.taps == taps and form.step == step:
            return form
    raise ValueError(f"no transforms for F({tile}x{tile}, {taps}x{taps}) on tiles {step} apart")


cdef inline const ck_winograd_kernels* own_kernels(str form, const ck_winograd_kernels* floats) except? NULL:
    """Return the kernels that 16-bit numbers have for themselves, NULL for float32.

    `floats` are those of float32 for the same tiles and taps.
    """
    cdef const ck_winograd_kernels* kernels = NULL
    cdef int i, forms = 1
    if form == "float32":
        return NULL
    if form == "split_bf16":
        kernels = <const ck_winograd_kernels*>dispatch.table().winograd_tile
    elif form == "int16" and ck_cpu_has_vnni():
        kernels = <const ck_winograd_kernels*>dispatch.table().winograd_vnni
        forms = CK_WINOGRAD_INT16_FORMS
    if kernels == NULL:
        raise RuntimeError(f"no instructions for Winograd's products of {form}")
    for i in range(forms):
        if kernels[i].tile == floats.tile and kernels[i].taps == floats.taps:
            return &kernels[i]
    raise ValueError(f"no transforms to {form} for F({floats.tile}x{floats.tile}, {floats.taps}x{floats.taps})")


cdef inline Py_ssize_t positions_of(const ck_winograd_kernels* kernels) noexcept nogil:
    """Return how many positions a transformed tile has."""
    return kernels.side * kernels.side


cdef inline Py_ssize_t weights_at(const ck_winograd_kernels* kernels, Py_ssize_t position) noexcept nogil:
    """Return which of the transformed weights a position is multiplied with."""
    cdef Py_ssize_t row = position // kernels.side, last = kernels.weight_side - 1
    return min(row, last) * kernels.weight_side + min(position % kernels.side, last)


cdef inline Py_ssize_t round_up(Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    return (n + step - 1) // step * step


cdef inline float largest(const int32_t* bits, Py_ssize_t count) noexcept nogil:
    """Return the largest of float32 numbers given by their bits, infinity where that is a NaN."""
    cdef int32_t largest = 0
    cdef float value
    cdef Py_ssize_t i
    for i in range(count):
        largest = max(largest, bits[i])
    largest = min(largest, INFINITE_BITS)
    memcpy(&value, &largest, sizeof(value))
    return value


# An image whose tiles are transformed: the input, or the output's gradient.
cdef struct Source:
    ck_winograd_input_fn transform
    ck_winograd_input_args proto
    Py_ssize_t height, width, channels
    Py_ssize_t pixel                      # floats from one pixel to the next
    Py_ssize_t top, left                  # where the first tile begins
    Py_ssize_t size                       # pixels of a tile's side
    Py_ssize_t hop                        # pixels from one tile to the next
    Py_ssize_t tile                       # the same of the output
    Py_ssize_t apart_h, apart_w           # from one pixel of a tile to the next: the dilation
    Py_ssize_t tiles_h, tiles_w           # tiles in a column and in a row of a phase
    Py_ssize_t per_sample                 # tiles of a sample
    Py_ssize_t strip                      # tiles side by side that are transformed together, at most
    Py_ssize_t step                       # floats from one transformed tile to the next


# Where a tile lies: its phase, and its row and column among the phase's tiles.
cdef struct Place:
    Py_ssize_t sample, phase_h, row, phase_w, col


cdef inline Place place_of(const Source* source, Py_ssize_t tile) noexcept nogil:
    cdef Place place
    place.col = tile % source.tiles_w
    tile //= source.tiles_w
    place.phase_w = tile % source.apart_w
    tile //= source.apart_w
    place.row = tile % source.tiles_h
    tile //= source.tiles_h
    place.phase_h = tile % source.apart_h
    place.sample = tile // source.apart_h
    return place


cdef inline Py_ssize_t beside(const Source* source, const Place* place, Py_ssize_t tiles) noexcept nogil:
    """Return how many of the next tiles, at most `tiles`, lie side by side."""
    return min(tiles, source.tiles_w - place.col)


cdef inline void move_on(const Source* source, Place* place, Py_ssize_t tiles) noexcept nogil:
    """Go on to the tile after some side by side; divisions for each would cost as much as a small
    transform."""
    place.col += tiles
    if place.col == source.tiles_w:
        place.col = 0
        place.phase_w += 1
        if place.phase_w == source.apart_w:
            place.phase_w = 0
            place.row += 1
            if place.row == source.tiles_h:
                place.row = 0
                place.phase_h += 1
                if place.phase_h == source.apart_h:
                    place.phase_h = 0
                    place.sample += 1


cdef inline Py_ssize_t first_row(const Source* source, const Place* place) noexcept nogil:
    """Return the row of the tile's first output."""
    return place.row * source.tile * source.apart_h + place.phase_h


cdef inline Py_ssize_t first_col(const Source* source, const Place* place) noexcept nogil:
    return place.col * source.tile * source.apart_w + place.phase_w


cdef inline Py_ssize_t top_row(const Source* source, const Place* place) noexcept nogil:
    """Return the tile's first row; there may be padding."""
    return place.row * source.hop * source.apart_h + place.phase_h + source.top


cdef inline Py_ssize_t left_col(const Source* source, const Place* place) noexcept nogil:
    return place.col * source.hop * source.apart_w + place.phase_w + source.left


cdef inline Py_ssize_t spaced(Py_ssize_t room, Py_ssize_t apart) noexcept nogil:
    """Return how many pixels, `apart` from each other, lie in `room` from the first on."""
    return 0 if room <= 0 else room if apart == 1 else (room + apart - 1) // apart


cdef inline void transform(const Source* source, Py_ssize_t first, Py_ssize_t last, float* v,
                     int32_t* peak) noexcept nogil:
    """Transform tiles [first, last); the first goes to `v`."""
    cdef ck_winograd_input_args args = source.proto
    cdef Place place = place_of(source, first)
    cdef Py_ssize_t row, col
    args.peak = peak
    while first < last:
        row = top_row(source, &place)
        col = left_col(source, &place)
        args.tiles = beside(source, &place, min(last - first, source.strip))
        args.offset = ((place.sample * source.height + row) * source.width + col) \
            * source.pixel
        args.row_from = spaced(-row, source.apart_h)
        args.row_to = spaced(source.height - row, source.apart_h)
        args.col_from = spaced(-col, source.apart_w)
        args.col_to = spaced(source.width - col, source.apart_w)
        args.v = v
        source.transform(&args)
        v += args.tiles * source.step
        first += args.tiles
        move_on(source, &place, args.tiles)


cdef inline Py_ssize_t apart(Py_ssize_t floats) noexcept nogil:
    """Return so many floats, or a vector more where they would be an even number of cache lines:
    what lies so far apart falls into different sets of a cache."""
    cdef Py_ssize_t vector = winograd_table().vector_length
    floats = round_up(floats, vector)
    return floats if 4 * floats % (2 * LINE_BYTES) else floats + vector


cdef inline Source describe_source(shape, const ck_winograd_kernels* kernels, bint gradient, Py_ssize_t top,
                    Py_ssize_t left, out_size, dilation, x_pixel=None):
    """Describe the tiles of the input, or of the output's gradient, that make `out_size` outputs.

    `shape` is that of a sample, (H, W, C).
    """
    cdef Source source
    cdef Py_ssize_t tile = kernels.tile
    source.height, source.width, source.channels = shape
    source.pixel = source.channels if x_pixel is None else x_pixel
    source.transform = kernels.gradient if gradient else kernels.input
    source.size = tile if gradient else kernels.size
    source.hop = tile if gradient else kernels.step
    source.top, source.left, source.tile = top, left, tile
    source.apart_h, source.apart_w = dilation
    source.tiles_h = (spaced(out_size[0], source.apart_h) + tile - 1) // tile
    source.tiles_w = (spaced(out_size[1], source.apart_w) + tile - 1) // tile
    source.per_sample = source.apart_h * source.tiles_h * source.apart_w * source.tiles_w
    source.proto.row_step = source.apart_h * source.width * source.pixel
    source.proto.pixel_step = source.apart_w * source.pixel
    source.proto.channels = source.channels
    source.proto.position_step = apart(source.channels)
    source.step = source.proto.tile_step = positions_of(kernels) * source.proto.position_step
    source.strip = STRIP_BYTES // max(<Py_ssize_t>1, 4 * source.channels * source.size) - source.size
    source.strip = max(<Py_ssize_t>1, min(<Py_ssize_t>CK_WINOGRAD_STRIP, source.strip // source.hop + 1))
    return source


cdef inline Py_ssize_t depth_runs(Py_ssize_t depth) noexcept nogil:
    """Return how many tasks go through so many depths of weights."""
    return (depth + PACK_DEPTHS - 1) // PACK_DEPTHS


cdef inline const float* address_or_null(array):
    return NULL if array is None else <const float*>address(array)
