"""Augmentation of batches of images in memory order (N, H, W, C), uint8 or float32.

One task is one image, so what comes out of an image depends on it and its own parameters
alone. Random numbers come from a counter-based generator: each is a function of a key (seed
and epoch), the sample's number, a stream (the place of a transform in a composition) and a
position, never of what was drawn before.
"""

import numpy as np

cimport numpy as cnp
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from convkit._kernels cimport memory
from convkit._kernels.dispatch cimport table
from convkit._kernels.runner cimport new_step
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

cdef extern from "augment.h" nogil:
    ctypedef struct ck_picture:
        Py_ssize_t height, width, channels
        int is_float
    ctypedef struct ck_warp_args:
        ck_picture in_ "in"
        Py_ssize_t out_height, out_width
        int bilinear, edge
        const float* fill
    ctypedef struct ck_resize_axis:
        double scale, offset
        Py_ssize_t low, high, out
    ctypedef struct ck_resize_args:
        ck_picture in_ "in"
        int bilinear, antialias
    ctypedef struct ck_color_step:
        int32_t kind
        float a[3]
    ctypedef struct ck_noise_args:
        Py_ssize_t count
        int is_float
        float mean, sigma, low, high
        uint32_t key[2]
        uint32_t id[2]
        uint32_t stream
    ctypedef struct ck_augment_table:
        Py_ssize_t (*warp_scratch)(const ck_warp_args*) noexcept nogil
        void (*warp)(const ck_warp_args*, const double*, const void*, void*, float*) noexcept nogil
        Py_ssize_t (*resize_scratch)(const ck_resize_args*, const ck_resize_axis*,
                                     const ck_resize_axis*) noexcept nogil
        void (*resize)(const ck_resize_args*, const ck_resize_axis*, const ck_resize_axis*,
                       const void*, void*, float*) noexcept nogil
        Py_ssize_t (*color_scratch)(const ck_picture*) noexcept nogil
        void (*color)(const ck_picture*, const ck_color_step*, Py_ssize_t, const void*, void*,
                      float*) noexcept nogil
        Py_ssize_t (*blur_scratch)(const ck_picture*, Py_ssize_t) noexcept nogil
        void (*blur)(const ck_picture*, double, Py_ssize_t, const void*, void*,
                     float*) noexcept nogil
        Py_ssize_t (*sobel_scratch)(const ck_picture*) noexcept nogil
        void (*sobel)(const ck_picture*, const void*, void*, float*) noexcept nogil
        void (*noise)(const ck_noise_args*, const void*, void*) noexcept nogil
        void (*mix)(const ck_picture*, float, const void*, const void*, void*) noexcept nogil
    int CK_COLOR_NONE, CK_COLOR_BRIGHTNESS, CK_COLOR_CONTRAST, CK_COLOR_SATURATION
    int CK_COLOR_HUE, CK_COLOR_GREY, CK_COLOR_ADD, CK_COLOR_SCALE, CK_COLOR_COUNT

cdef extern from "philox.h" nogil:
    void ck_philox(uint32_t* c, uint32_t k0, uint32_t k1)

# What a step of `color` does, by name.
COLOR = {"none": CK_COLOR_NONE, "brightness": CK_COLOR_BRIGHTNESS,
         "contrast": CK_COLOR_CONTRAST, "saturation": CK_COLOR_SATURATION, "hue": CK_COLOR_HUE,
         "grey": CK_COLOR_GREY, "add": CK_COLOR_ADD, "scale": CK_COLOR_SCALE}


cdef enum Kind:
    WARP, PLACE, RESIZE, COLOR_STEPS, BLUR, SOBEL, NOISE, MIX, FILL, PASTE, CHOOSE, LOOKUP


# One call; which fields hold something depends on the kind.
cdef struct Job:
    Kind kind
    const ck_augment_table* family
    ck_picture picture            # of the source
    Py_ssize_t item               # bytes of an element
    const char* x
    char* y
    Py_ssize_t x_bytes, y_bytes   # of an image
    float* scratch
    Py_ssize_t scratch_floats     # of one thread
    ck_warp_args warp
    ck_resize_args resize
    ck_noise_args noise
    Py_ssize_t out_height, out_width, steps, radius, rows
    const double* numbers         # per image: a matrix, boxes, sigmas
    const int64_t* whole          # per image: places, boxes, ids, partners
    const float* shares
    const uint8_t* masks
    const ck_color_step* color
    const char* fill              # one pixel, or one for each image
    const float* lookup


cdef inline Py_ssize_t _index(Py_ssize_t i, Py_ssize_t n, int border) noexcept nogil:
    """Return the position that a border shows at i: -1 for the fill."""
    cdef Py_ssize_t period
    if 0 <= i < n:
        return i
    if border == 0:
        return -1
    if border == 1:
        return 0 if i < 0 else n - 1
    if border == 2:
        if n == 1:
            return 0
        period = 2 * (n - 1)
        i %= period
        if i < 0:
            i += period
        return i if i < n else period - i
    period = 2 * n
    i %= period
    if i < 0:
        i += period
    return i if i < n else period - 1 - i


cdef inline void _copy_pixel(char* to, const char* source, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t b
    if size == 3:
        to[0], to[1], to[2] = source[0], source[1], source[2]
    elif size == 1:
        to[0] = source[0]
    else:
        memcpy(to, source, size)


cdef void _place(Job* job, Py_ssize_t image, const char* x, char* y) noexcept nogil:
    """Copy pixels: output (row, column) shows the source at the place that six numbers tell.

    They are (a, b, c, d, e, f) as in a warp, of which one of a, b and one of d, e is 1 or -1
    and the others 0. The seventh is the border.
    """
    cdef const int64_t* m = job.whole + 7 * image
    cdef Py_ssize_t height = job.picture.height, width = job.picture.width
    cdef Py_ssize_t size = job.picture.channels * job.item, line = width * size
    cdef Py_ssize_t row, column, by_row, by_column, first, run
    cdef int border = <int>m[6]
    cdef bint turned = m[0] == 0
    cdef char* to = y
    for row in range(job.out_height):
        by_row = (_index(m[1] * row + m[2], width, border) if turned
                  else _index(m[4] * row + m[5], height, border))
        column = 0
        while column < job.out_width:
            by_column = (_index(m[3] * column + m[5], height, border) if turned
                         else _index(m[0] * column + m[2], width, border))
            if by_row < 0 or by_column < 0:
                _copy_pixel(to, job.fill, size)
            elif turned:
                _copy_pixel(to, x + by_column * line + by_row * size, size)
            elif m[0] == 1 and column + m[2] == by_column:
                # Pixels side by side in both.
                run = min(width - by_column, job.out_width - column)
                memcpy(to, x + by_row * line + by_column * size, run * size)
                column += run
                to += run * size
                continue
            else:
                _copy_pixel(to, x + by_row * line + by_column * size, size)
            column += 1
            to += size


cdef void _resize(Job* job, Py_ssize_t image, const char* x, char* y,
                  float* scratch) noexcept nogil:
    cdef ck_resize_axis h, w
    _axes(job, image, &h, &w)
    job.family.resize(&job.resize, &h, &w, x, y, scratch)


cdef void _axes(Job* job, Py_ssize_t image, ck_resize_axis* h, ck_resize_axis* w) noexcept nogil:
    """Read an image's axes: scale, offset, low, high of the height, then of the width."""
    cdef const double* n = job.numbers + 8 * image
    h.scale, h.offset, h.low, h.high = n[0], n[1], <Py_ssize_t>n[2], <Py_ssize_t>n[3]
    w.scale, w.offset, w.low, w.high = n[4], n[5], <Py_ssize_t>n[6], <Py_ssize_t>n[7]
    h.out, w.out = job.out_height, job.out_width


cdef void _fill_boxes(Job* job, Py_ssize_t image, const char* x, char* y) noexcept nogil:
    """Copy an image and put a colour into its boxes (top, left, bottom, right)."""
    cdef Py_ssize_t size = job.picture.channels * job.item, box, row, column
    cdef Py_ssize_t line = job.picture.width * size
    cdef const int64_t* b
    cdef const char* fill = job.fill + image * size
    memcpy(y, x, job.x_bytes)
    for box in range(job.rows):
        b = job.whole + 4 * (image * job.rows + box)
        for row in range(b[0], b[2]):
            for column in range(b[1], b[3]):
                _copy_pixel(y + row * line + column * size, fill, size)


cdef void _paste(Job* job, Py_ssize_t image, const char* x, char* y) noexcept nogil:
    """Copy an image and put another image's box (other, top, left, bottom, right) over it."""
    cdef const int64_t* b = job.whole + 5 * image
    cdef Py_ssize_t size = job.picture.channels * job.item, row, at
    cdef Py_ssize_t line = job.picture.width * size
    cdef const char* other = job.x + b[0] * job.x_bytes
    memcpy(y, x, job.x_bytes)
    if b[4] <= b[2]:
        return
    for row in range(b[1], b[3]):
        at = row * line + b[2] * size
        memcpy(y + at, other + at, (b[4] - b[2]) * size)


cdef void _choose(Job* job, Py_ssize_t image, const char* x, char* y) noexcept nogil:
    """Take a pixel from the image where its mask is set, else from the other one."""
    cdef Py_ssize_t size = job.picture.channels * job.item, i
    cdef Py_ssize_t pixels = job.picture.height * job.picture.width
    cdef const char* other = job.x + job.whole[image] * job.x_bytes
    cdef const uint8_t* mask = job.masks + image * pixels
    for i in range(pixels):
        _copy_pixel(y + i * size, (x if mask[i] else other) + i * size, size)


cdef void _look_up(Job* job, const uint8_t* x, float* y) noexcept nogil:
    """Replace bytes by floats from a table for each channel."""
    cdef Py_ssize_t i, c, channels = job.picture.channels
    cdef Py_ssize_t pixels = job.picture.height * job.picture.width
    if channels == 3:
        for i in range(pixels):
            y[3 * i] = job.lookup[x[3 * i]]
            y[3 * i + 1] = job.lookup[256 + x[3 * i + 1]]
            y[3 * i + 2] = job.lookup[512 + x[3 * i + 2]]
        return
    for i in range(pixels):
        for c in range(channels):
            y[i * channels + c] = job.lookup[256 * c + x[i * channels + c]]


cdef void _task(void* ctx, Py_ssize_t image, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    cdef const char* x = job.x + image * job.x_bytes
    cdef char* y = job.y + image * job.y_bytes
    cdef float* scratch = job.scratch + slot * job.scratch_floats
    cdef ck_noise_args noise
    if job.kind == WARP:
        job.family.warp(&job.warp, job.numbers + 6 * image, x, y, scratch)
    elif job.kind == PLACE:
        _place(job, image, x, y)
    elif job.kind == RESIZE:
        _resize(job, image, x, y, scratch)
    elif job.kind == COLOR_STEPS:
        job.family.color(&job.picture, job.color + image * job.steps, job.steps, x, y, scratch)
    elif job.kind == BLUR:
        job.family.blur(&job.picture, job.numbers[image], job.radius, x, y, scratch)
    elif job.kind == SOBEL:
        job.family.sobel(&job.picture, x, y, scratch)
    elif job.kind == NOISE:
        noise = job.noise
        noise.sigma = job.shares[image]
        noise.id[0] = <uint32_t>job.whole[image]
        noise.id[1] = <uint32_t>((<uint64_t>job.whole[image]) >> 32)
        job.family.noise(&noise, x, y)
    elif job.kind == MIX:
        job.family.mix(&job.picture, job.shares[image], x, job.x + job.whole[image] * job.x_bytes,
                       y)
    elif job.kind == FILL:
        _fill_boxes(job, image, x, y)
    elif job.kind == PASTE:
        _paste(job, image, x, y)
    elif job.kind == CHOOSE:
        _choose(job, image, x, y)
    else:
        _look_up(job, <const uint8_t*>x, <float*>y)


cdef _begin(Job* job, Kind kind, cnp.ndarray x, cnp.ndarray y):
    """Fill in what all kinds share, and check that the arrays are what kernels expect."""
    cdef int number = cnp.PyArray_TYPE(x)
    if x.ndim != 4 or y.ndim != 4 or x.shape[0] != y.shape[0] or x.shape[3] != y.shape[3]:
        raise ValueError("kernel called with arrays that are no batches of as many images")
    if number not in (cnp.NPY_UINT8, cnp.NPY_FLOAT32):
        raise TypeError(f"kernel called with an array of {x.dtype}, expected uint8 or float32")
    if kind != LOOKUP and cnp.PyArray_TYPE(y) != number:
        raise TypeError("kernel called with images of two types")
    if not (cnp.PyArray_IS_C_CONTIGUOUS(x) and cnp.PyArray_IS_C_CONTIGUOUS(y)
            and cnp.PyArray_ISWRITEABLE(y)):
        raise ValueError("kernel called with an array that is not contiguous in memory")
    if kind not in (WARP, PLACE, RESIZE) and not (x.shape[1] == y.shape[1]
                                                  and x.shape[2] == y.shape[2]):
        raise ValueError("kernel called with images of two sizes")
    job.kind = kind
    job.family = <const ck_augment_table*>table().augment
    job.picture.height, job.picture.width = x.shape[1], x.shape[2]
    job.picture.channels = x.shape[3]
    job.picture.is_float = number == cnp.NPY_FLOAT32
    job.item = cnp.PyArray_ITEMSIZE(x)
    job.x = <const char*>cnp.PyArray_DATA(x)
    job.y = <char*>cnp.PyArray_DATA(y)
    job.x_bytes = x.shape[1] * x.shape[2] * x.shape[3] * job.item
    job.y_bytes = y.shape[1] * y.shape[2] * y.shape[3] * cnp.PyArray_ITEMSIZE(y)
    job.out_height, job.out_width = y.shape[1], y.shape[2]
    job.scratch = NULL
    job.scratch_floats = 0


cdef _run(Job* job, Py_ssize_t images, int threads, double work_per_byte):
    """Take scratch memory and run a task for each image."""
    cdef double work = work_per_byte * (job.x_bytes + job.y_bytes) * images
    cdef size_t size
    if images == 0 or job.y_bytes == 0:
        return
    threads = threads_for(threads, images, work)
    # Threads write to lines of cache of their own.
    job.scratch_floats = (job.scratch_floats + 31) // 16 * 16
    size = <size_t>threads * <size_t>job.scratch_floats * sizeof(float)
    job.scratch = <float*>memory.take(size)
    if job.scratch == NULL:
        raise MemoryError(f"could not allocate {size} bytes")
    with nogil:
        parallel_for(_task, job, images, threads)
        memory.give(job.scratch, size)


cdef void* _parameters(cnp.ndarray a, int number, Py_ssize_t count) except? NULL:
    """Return the data of a contiguous array of `count` parameters."""
    if cnp.PyArray_TYPE(a) != number or not cnp.PyArray_IS_C_CONTIGUOUS(a):
        raise TypeError("kernel called with parameters of another type or layout")
    if cnp.PyArray_SIZE(a) != count:
        raise ValueError(f"kernel called with {cnp.PyArray_SIZE(a)} parameters, expected {count}")
    return cnp.PyArray_DATA(a)


def warp(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray matrices not None,
         bint bilinear, bint edge, cnp.ndarray fill not None, int threads):
    """Resample images by affine maps, float64 (N, 6); `fill` is float32 (C,)."""
    cdef Job job
    _begin(&job, WARP, x, y)
    job.numbers = <const double*>_parameters(matrices, cnp.NPY_FLOAT64, 6 * x.shape[0])
    job.warp.in_ = job.picture
    job.warp.out_height, job.warp.out_width = job.out_height, job.out_width
    job.warp.bilinear, job.warp.edge = bilinear, edge
    job.warp.fill = <const float*>_parameters(fill, cnp.NPY_FLOAT32, x.shape[3])
    job.scratch_floats = job.family.warp_scratch(&job.warp)
    _run(&job, x.shape[0], threads, 4.0)


def place(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray places not None,
          cnp.ndarray fill not None, int threads):
    """Copy pixels by signed permutations of the axes, int64 (N, 7); `fill` is one pixel."""
    cdef Job job
    _begin(&job, PLACE, x, y)
    job.whole = <const int64_t*>_parameters(places, cnp.NPY_INT64, 7 * x.shape[0])
    job.fill = <const char*>_parameters(fill, cnp.PyArray_TYPE(x), x.shape[3])
    _run(&job, x.shape[0], threads, 0.5)


def resize(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray axes not None,
           bint bilinear, bint antialias, int threads):
    """Scale images to y's size by their own axes, float64 (N, 8); see `_axes`."""
    cdef Job job
    cdef ck_resize_axis h, w
    cdef Py_ssize_t image
    _begin(&job, RESIZE, x, y)
    job.numbers = <const double*>_parameters(axes, cnp.NPY_FLOAT64, 8 * x.shape[0])
    job.resize.in_ = job.picture
    job.resize.bilinear, job.resize.antialias = bilinear, antialias
    for image in range(x.shape[0]):
        _axes(&job, image, &h, &w)
        if not (0 <= h.low < h.high <= x.shape[1] and 0 <= w.low < w.high <= x.shape[2]
                and 0 < h.scale <= x.shape[1] and 0 < w.scale <= x.shape[2]):
            raise ValueError("kernel called with a box outside of the image")
        job.scratch_floats = max(job.scratch_floats,
                                 job.family.resize_scratch(&job.resize, &h, &w))
    _run(&job, x.shape[0], threads, 4.0)


def color(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray kinds not None,
          cnp.ndarray values not None, int threads):
    """Apply each image's colour steps: kinds int32 (N, S), values float32 (N, S, 3)."""
    cdef Job job
    cdef Py_ssize_t i, count = kinds.size
    cdef const int32_t* kind
    cdef const float* value
    cdef ck_color_step* steps
    _begin(&job, COLOR_STEPS, x, y)
    if x.shape[3] not in (1, 3) or kinds.ndim != 2 or kinds.shape[0] != x.shape[0]:
        raise ValueError("kernel called with colour steps that do not fit the images")
    kind = <const int32_t*>_parameters(kinds, cnp.NPY_INT32, count)
    value = <const float*>_parameters(values, cnp.NPY_FLOAT32, 3 * count)
    steps = <ck_color_step*>memory.take(count * sizeof(ck_color_step) + 1)
    if steps == NULL:
        raise MemoryError("could not allocate the colour steps")
    for i in range(count):
        steps[i].kind = kind[i]
        steps[i].a[0], steps[i].a[1], steps[i].a[2] = (
            value[3 * i], value[3 * i + 1], value[3 * i + 2])
    job.color, job.steps = steps, kinds.shape[1]
    job.scratch_floats = job.family.color_scratch(&job.picture)
    try:
        _run(&job, x.shape[0], threads, 2.0 * job.steps)
    finally:
        memory.give(steps, count * sizeof(ck_color_step) + 1)


def blur(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray sigmas not None,
         Py_ssize_t radius, int threads):
    """Blur images by Gaussians of their own sigma, float64 (N,); 0 leaves an image as it is."""
    cdef Job job
    _begin(&job, BLUR, x, y)
    job.numbers = <const double*>_parameters(sigmas, cnp.NPY_FLOAT64, x.shape[0])
    if radius < 0:
        raise ValueError("kernel called with a negative radius")
    job.radius = radius
    job.scratch_floats = job.family.blur_scratch(&job.picture, radius)
    _run(&job, x.shape[0], threads, 1.0 + 0.5 * radius)


def sobel(cnp.ndarray x not None, cnp.ndarray y not None, int threads):
    """Write the length of the gradient of every channel."""
    cdef Job job
    _begin(&job, SOBEL, x, y)
    job.scratch_floats = job.family.sobel_scratch(&job.picture)
    _run(&job, x.shape[0], threads, 2.0)


cdef uint32_t _stream(object stream) except? 0:
    return <uint32_t>(<uint64_t>stream & 0xFFFFFFFF)


def noise(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray sigmas not None,
          double mean, double low, double high, cnp.ndarray ids not None, tuple key, stream,
          int threads):
    """Add normal noise: sigmas float32 (N,), ids int64 (N,), key two words of 32 bits."""
    cdef Job job
    _begin(&job, NOISE, x, y)
    job.shares = <const float*>_parameters(sigmas, cnp.NPY_FLOAT32, x.shape[0])
    job.whole = <const int64_t*>_parameters(ids, cnp.NPY_INT64, x.shape[0])
    job.noise.count = job.x_bytes // job.item
    job.noise.is_float = job.picture.is_float
    job.noise.mean, job.noise.low, job.noise.high = mean, low, high
    job.noise.key[0], job.noise.key[1] = key[0], key[1]
    job.noise.stream = _stream(stream)
    _run(&job, x.shape[0], threads, 8.0)


def _partners(cnp.ndarray partners, Py_ssize_t images):
    if images and not 0 <= partners.min() <= partners.max() < images:
        raise ValueError("kernel called with a partner outside of the batch")


def mix(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray partners not None,
        cnp.ndarray shares not None, int threads):
    """Write share * image + (1 - share) * partner; shares float32 (N,) from 0 to 1."""
    cdef Job job
    _begin(&job, MIX, x, y)
    job.whole = <const int64_t*>_parameters(partners, cnp.NPY_INT64, x.shape[0])
    job.shares = <const float*>_parameters(shares, cnp.NPY_FLOAT32, x.shape[0])
    _partners(partners, x.shape[0])
    _run(&job, x.shape[0], threads, 1.0)


def fill_boxes(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray boxes not None,
               cnp.ndarray fill not None, int threads):
    """Put a colour, (N, C), into boxes (top, left, bottom, right), int64 (N, B, 4)."""
    cdef Job job
    _begin(&job, FILL, x, y)
    if boxes.ndim != 3:
        raise ValueError("kernel called with boxes that are no table for each image")
    job.rows = boxes.shape[1]
    job.whole = <const int64_t*>_parameters(boxes, cnp.NPY_INT64, 4 * x.shape[0] * job.rows)
    job.fill = <const char*>_parameters(fill, cnp.PyArray_TYPE(x), x.shape[0] * x.shape[3])
    if boxes.size and (boxes.min() < 0 or boxes[..., 2].max() > x.shape[1]
                       or boxes[..., 3].max() > x.shape[2]):
        raise ValueError("kernel called with a box outside of the image")
    _run(&job, x.shape[0], threads, 0.5)


def paste(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray boxes not None,
          int threads):
    """Put a partner's box over an image: (partner, top, left, bottom, right), int64 (N, 5)."""
    cdef Job job
    _begin(&job, PASTE, x, y)
    job.whole = <const int64_t*>_parameters(boxes, cnp.NPY_INT64, 5 * x.shape[0])
    _partners(boxes[:, 0], x.shape[0])
    if boxes.size and (boxes.min() < 0 or boxes[:, 3].max() > x.shape[1]
                       or boxes[:, 4].max() > x.shape[2]):
        raise ValueError("kernel called with a box outside of the image")
    _run(&job, x.shape[0], threads, 0.5)


def choose(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray partners not None,
           cnp.ndarray masks not None, int threads):
    """Take pixels of the image where its mask, uint8 (N, H, W), is set, else the partner's."""
    cdef Job job
    _begin(&job, CHOOSE, x, y)
    job.whole = <const int64_t*>_parameters(partners, cnp.NPY_INT64, x.shape[0])
    job.masks = <const uint8_t*>_parameters(
        masks, cnp.NPY_UINT8, x.shape[0] * x.shape[1] * x.shape[2])
    _partners(partners, x.shape[0])
    _run(&job, x.shape[0], threads, 0.5)


def look_up(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray values not None,
            int threads):
    """Replace uint8 images by floats: values float32 (C, 256)."""
    cdef Job job
    _begin(&job, LOOKUP, x, y)
    if cnp.PyArray_TYPE(x) != cnp.NPY_UINT8 or cnp.PyArray_TYPE(y) != cnp.NPY_FLOAT32:
        raise TypeError("kernel called with arrays that are not uint8 and float32")
    job.lookup = <const float*>_parameters(values, cnp.NPY_FLOAT32, 256 * x.shape[3])
    _run(&job, x.shape[0], threads, 0.5)


# -- bytes to floats as a step of Programs ----------------------------------------------------

cdef Py_ssize_t PIXELS = 4096  # of a task

cdef struct Lookup:
    const uint8_t* x
    float* y
    const float* values
    Py_ssize_t pixels, channels


cdef void _look_up_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Lookup* run = <Lookup*>ctx
    cdef Py_ssize_t at = index * PIXELS * run.channels
    cdef Job job
    job.picture.channels = run.channels
    job.picture.height = 1
    job.picture.width = min(PIXELS, run.pixels - index * PIXELS)
    job.lookup = run.values
    _look_up(&job, run.x + at, run.y + at)


cdef int _look_up_run(const void* params, char** at, Py_ssize_t samples, int threads,
                      char* scratch) noexcept nogil:
    cdef Lookup run = (<const Lookup*>params)[0]
    run.x = <const uint8_t*>at[0]
    run.y = <float*>at[1]
    run.pixels *= samples
    cdef Py_ssize_t tasks = (run.pixels + PIXELS - 1) // PIXELS
    parallel_for(_look_up_block, &run, tasks,
                 threads_for(threads, tasks, 2.0 * run.pixels * run.channels))
    return 0


def look_up_step(Py_ssize_t pixels, cnp.ndarray values not None):
    """Return `look_up` on `pixels` pixels of each sample as a step, with operands x and y."""
    cdef Lookup run
    run.pixels, run.channels = pixels, values.shape[0]
    run.values = <const float*>_parameters(values, cnp.NPY_FLOAT32, 256 * run.channels)
    run.x = NULL
    run.y = NULL
    return new_step(_look_up_run, NULL, &run, sizeof(Lookup), (values,))


def uniforms(tuple key, cnp.ndarray ids not None, stream, Py_ssize_t count):
    """Return float64 (N, count) in [0, 1): random words of Philox4x32-10 over 2^32.

    Number i of a sample is word i % 4 of the block with counter (i // 4, id's lower and upper
    half, stream).
    """
    cdef cnp.ndarray y = np.empty((ids.shape[0], count), np.float64)
    cdef double* out = <double*>cnp.PyArray_DATA(y)
    cdef const int64_t* number = <const int64_t*>_parameters(ids, cnp.NPY_INT64, ids.shape[0])
    cdef uint32_t k0 = key[0], k1 = key[1], where = _stream(stream)
    cdef uint32_t block[4]
    cdef Py_ssize_t n, i, images = ids.shape[0]
    with nogil:
        for n in range(images):
            for i in range(count):
                if i % 4 == 0:
                    block[0] = <uint32_t>(i // 4)
                    block[1] = <uint32_t>number[n]
                    block[2] = <uint32_t>((<uint64_t>number[n]) >> 32)
                    block[3] = where
                    ck_philox(block, k0, k1)
                out[n * count + i] = block[i % 4] / 4294967296.0
    return y
