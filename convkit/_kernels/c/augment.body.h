/* Augmentation kernels for one image. All arithmetic is in float; bytes are rounded to the
   nearest at the end of a kernel, once. */
#include "lanes.h"
#include "philox.h"

CK_INLINE float augment_clamp(float v, float low, float high) {
    v = v < low ? low : v; /* NaN stays */
    return v > high ? high : v;
}

CK_INLINE uint8_t augment_byte(float v) { return (uint8_t)(int32_t)(augment_clamp(v, 0, 255) + 0.5f); }

/* n elements of a picture as floats, and back. */
static void augment_load(int is_float, const void *x, ptrdiff_t at, float *y, ptrdiff_t n) {
    if (is_float) {
        memcpy(y, (const float *)x + at, (size_t)n * sizeof(float));
    } else {
        const uint8_t *bytes = (const uint8_t *)x + at;
        for (ptrdiff_t i = 0; i < n; i++) y[i] = bytes[i];
    }
}

static void augment_store(int is_float, const float *x, void *y, ptrdiff_t at, ptrdiff_t n) {
    if (is_float) {
        memcpy((float *)y + at, x, (size_t)n * sizeof(float));
    } else {
        uint8_t *bytes = (uint8_t *)y + at;
        for (ptrdiff_t i = 0; i < n; i++) bytes[i] = augment_byte(x[i]);
    }
}

/* Position i mirrored into 0 <= i < n without repeating the edge ("reflect"). */
CK_INLINE ptrdiff_t augment_reflect(ptrdiff_t i, ptrdiff_t n) {
    if (n == 1) return 0;
    ptrdiff_t period = 2 * (n - 1);
    i %= period;
    if (i < 0) i += period;
    return i < n ? i : period - i;
}

/* -- four channels of a pixel ------------------------------------------------------------- */

#if CK_VBYTES > 16
typedef vfloat_q augment_four;
#define AUGMENT_LOAD load_fq
#define AUGMENT_STORE store_fq
#define AUGMENT_SET set_fq
#else
typedef vfloat augment_four;
#define AUGMENT_LOAD load_f
#define AUGMENT_STORE store_f
#define AUGMENT_SET set_f
#endif

/* Stores the first n <= 4 channels at element `at`; with `spare`, what lies behind them up to
   four may be overwritten too. */
CK_INLINE void augment_store_four(int is_float, augment_four v, void *y, ptrdiff_t at, int n,
                                  int spare) {
    if (is_float) {
        float *to = (float *)y + at;
        if (spare || n == 4) {
            AUGMENT_STORE(to, v);
        } else {
            for (int c = 0; c < n; c++) to[c] = v[c];
        }
        return;
    }
    /* Weights sum to 1 but for rounding, so v is within 0 to 255 but for less than a half. */
    typedef int32_t whole __attribute__((vector_size(16)));
    typedef uint8_t four_bytes __attribute__((vector_size(4)));
    four_bytes bytes = __builtin_convertvector(__builtin_convertvector(v + 0.5f, whole),
                                               four_bytes);
    uint8_t *to = (uint8_t *)y + at;
    if (spare || n == 4) {
        memcpy(to, &bytes, 4);
    } else {
        for (int c = 0; c < n; c++) to[c] = bytes[c];
    }
}

/* -- affine maps ---------------------------------------------------------------------------- */

/* Channels of a staged pixel: rounded up to fours. */
CK_INLINE ptrdiff_t augment_staged(ptrdiff_t channels) { return (channels + 3) & ~(ptrdiff_t)3; }

static ptrdiff_t augment_warp_scratch(const ck_warp_args *p) {
    return (p->in.height + 2) * (p->in.width + 2) * augment_staged(p->in.channels);
}

/* Pixels to their staged form; the number of channels is a constant where it matters. */
CK_INLINE void augment_stage_pixels(const ck_warp_args *p, const void *x, ptrdiff_t at, float *y,
                                    ptrdiff_t n) {
    const ptrdiff_t staged = augment_staged(n), width = p->in.width;
    if (p->in.is_float) {
        const float *from = (const float *)x + at;
        for (ptrdiff_t q = 0; q < width; q++)
            for (ptrdiff_t c = 0; c < n; c++) y[q * staged + c] = from[q * n + c];
    } else {
        const uint8_t *from = (const uint8_t *)x + at;
        for (ptrdiff_t q = 0; q < width; q++)
            for (ptrdiff_t c = 0; c < n; c++) y[q * staged + c] = from[q * n + c];
    }
}

/* A row of pixels to its staged form, between two pixels of border. */
static void augment_stage_row(const ck_warp_args *p, const void *x, ptrdiff_t row, float *y) {
    const ptrdiff_t n = p->in.channels, staged = augment_staged(n), width = p->in.width;
    const ptrdiff_t at = row * width * n;
    if (n == 3)
        augment_stage_pixels(p, x, at, y + staged, 3);
    else if (n == 1)
        augment_stage_pixels(p, x, at, y + staged, 1);
    else
        augment_stage_pixels(p, x, at, y + staged, n);
    for (ptrdiff_t c = 0; c < n; c++) {
        y[c] = p->edge ? y[staged + c] : p->fill[c];
        y[(width + 1) * staged + c] = p->edge ? y[width * staged + c] : p->fill[c];
    }
}

/* The picture with a border of one pixel, beyond which nothing new is seen. */
static void augment_stage(const ck_warp_args *p, const void *x, float *y) {
    const ptrdiff_t n = p->in.channels, staged = augment_staged(n);
    const ptrdiff_t height = p->in.height, length = (p->in.width + 2) * staged;
    memset(y, 0, (size_t)augment_warp_scratch(p) * sizeof(float));
    for (ptrdiff_t r = 0; r < height; r++) augment_stage_row(p, x, r, y + (r + 1) * length);
    float *first = y, *last = y + (height + 1) * length;
    if (p->edge) {
        memcpy(first, first + length, (size_t)length * sizeof(float));
        memcpy(last, last - length, (size_t)length * sizeof(float));
        return;
    }
    for (ptrdiff_t q = 0; q < p->in.width + 2; q++)
        for (ptrdiff_t c = 0; c < n; c++)
            first[q * staged + c] = last[q * staged + c] = p->fill[c];
}

/* A position along an axis of n pixels as a staged index and the share of the next one. */
CK_INLINE ptrdiff_t augment_split(double position, ptrdiff_t n, int bilinear, float *share) {
    double v = position + (bilinear ? 1.0 : 1.5);
    double high = (double)(n + 1);
    v = v > 0 ? v : 0;
    v = v < high ? v : high;
    ptrdiff_t i = (ptrdiff_t)v;
    if (!bilinear) return i;
    if (i > n) i = n;
    *share = (float)(v - (double)i);
    return i;
}

CK_INLINE void augment_warp_row(const ck_warp_args *p, const double *m, ptrdiff_t row, void *y,
                                const float *stage, int is_float, int bilinear, ptrdiff_t n) {
    const ptrdiff_t staged = augment_staged(n);
    const ptrdiff_t length = (p->in.width + 2) * staged, width = p->out_width;
    const double x0 = m[1] * (double)row + m[2], y0 = m[4] * (double)row + m[5];
    for (ptrdiff_t q = 0; q < width; q++) {
        float right = 0, below = 0;
        ptrdiff_t i = augment_split(m[3] * (double)q + y0, p->in.height, bilinear, &below);
        ptrdiff_t j = augment_split(m[0] * (double)q + x0, p->in.width, bilinear, &right);
        const float *from = stage + i * length + j * staged;
        const ptrdiff_t at = (row * width + q) * n;
        const augment_four a = AUGMENT_SET(right), b = AUGMENT_SET(below);
        for (ptrdiff_t c = 0; c < n; c += 4) {
            augment_four v = AUGMENT_LOAD(from + c);
            if (bilinear) {
                augment_four v1 = AUGMENT_LOAD(from + c + staged);
                augment_four w = AUGMENT_LOAD(from + c + length);
                augment_four w1 = AUGMENT_LOAD(from + c + length + staged);
                v += a * (v1 - v);
                w += a * (w1 - w);
                v += b * (w - v);
            }
            int some = n - c < 4 ? (int)(n - c) : 4;
            /* A row's later pixels overwrite what a store puts behind this one. */
            augment_store_four(is_float, v, y, at + c, some, (width - 1 - q) * n >= 4);
        }
    }
}

static void augment_warp(const ck_warp_args *p, const double *m, const void *x, void *y,
                         float *scratch) {
    augment_stage(p, x, scratch);
    const int is_float = p->in.is_float;
    const ptrdiff_t n = p->in.channels;
    for (ptrdiff_t r = 0; r < p->out_height; r++) {
        if (!p->bilinear)
            augment_warp_row(p, m, r, y, scratch, is_float, 0, n);
        else if (is_float)
            augment_warp_row(p, m, r, y, scratch, 1, 1, n);
        else if (n == 3)
            augment_warp_row(p, m, r, y, scratch, 0, 1, 3);
        else
            augment_warp_row(p, m, r, y, scratch, 0, 1, n);
    }
}

/* -- resize ----------------------------------------------------------------------------------- */

/* Half the width of the triangle that weighs source pixels. */
CK_INLINE double augment_support(const ck_resize_args *p, const ck_resize_axis *axis) {
    double scale = axis->scale < 0 ? -axis->scale : axis->scale;
    return p->antialias && scale > 1 ? scale : 1;
}

CK_INLINE ptrdiff_t augment_taps(const ck_resize_args *p, const ck_resize_axis *axis) {
    return 2 * (ptrdiff_t)(augment_support(p, axis) + 1) + 1;
}

/* Weights of one output: returns the first source pixel and sets their number. */
static ptrdiff_t augment_weights(const ck_resize_args *p, const ck_resize_axis *axis, ptrdiff_t i,
                                 float *weight, ptrdiff_t *count) {
    const double support = augment_support(p, axis);
    const double centre = axis->offset + ((double)i + 0.5) * axis->scale;
    const double low = (double)axis->low, high = (double)axis->high;
    double first = centre - support + 0.5, end = centre + support + 0.5;
    if (!p->bilinear) first = centre;
    first = first < low ? low : first > high - 1 ? high - 1 : first;
    end = end > high ? high : end;
    ptrdiff_t begin = (ptrdiff_t)first, n = (ptrdiff_t)end - begin;
    double total = 0;
    if (!p->bilinear || n < 1) {
        weight[0] = 1;
        *count = 1;
        return begin;
    }
    for (ptrdiff_t k = 0; k < n; k++) {
        double distance = ((double)(begin + k) + 0.5 - centre) / support;
        double w = 1 - (distance < 0 ? -distance : distance);
        weight[k] = (float)(w > 0 ? w : 0);
        total += w > 0 ? w : 0;
    }
    if (!(total > 0)) weight[0] = 1, total = 1; /* only the triangle's very end is inside */
    for (ptrdiff_t k = 0; k < n; k++) weight[k] = (float)(weight[k] / total);
    *count = n;
    return begin;
}

/* One row of sources with room for reading four channels at any pixel, one of weights, and
   for each output column its weights and where they start and end. */
static ptrdiff_t augment_resize_scratch(const ck_resize_args *p, const ck_resize_axis *h,
                                        const ck_resize_axis *w) {
    return p->in.width * p->in.channels + 4 + augment_taps(p, h) +
           w->out * (augment_taps(p, w) + 2 * (ptrdiff_t)(sizeof(ptrdiff_t) / sizeof(float))) + 2;
}

/* The weighted sum of source rows, over the columns from `from` to `to`. */
static void augment_sum_rows(const ck_picture *in, const void *x, ptrdiff_t row, ptrdiff_t count,
                             const float *weight, ptrdiff_t from, ptrdiff_t to, float *sum) {
    const ptrdiff_t length = in->width * in->channels;
    for (ptrdiff_t k = 0; k < count; k++) {
        const float w = weight[k];
        const ptrdiff_t at = (row + k) * length;
        if (in->is_float) {
            const float *line = (const float *)x + at;
            if (k == 0)
                for (ptrdiff_t i = from; i < to; i++) sum[i] = w * line[i];
            else
                for (ptrdiff_t i = from; i < to; i++) sum[i] += w * line[i];
        } else {
            const uint8_t *line = (const uint8_t *)x + at;
            if (k == 0)
                for (ptrdiff_t i = from; i < to; i++) sum[i] = w * (float)line[i];
            else
                for (ptrdiff_t i = from; i < to; i++) sum[i] += w * (float)line[i];
        }
    }
}

static void augment_resize(const ck_resize_args *p, const ck_resize_axis *h,
                           const ck_resize_axis *w, const void *x, void *y, float *scratch) {
    const ptrdiff_t n = p->in.channels, taps = augment_taps(p, w), columns = w->out;
    const ptrdiff_t length = p->in.width * n;
    ptrdiff_t *begins = (ptrdiff_t *)(((uintptr_t)scratch + 7) & ~(uintptr_t)7);
    ptrdiff_t *counts = begins + columns;
    float *weights = (float *)(counts + columns);
    float *down = weights + columns * taps, *sum = down + augment_taps(p, h);
    ptrdiff_t from = length, to = 0;
    for (ptrdiff_t q = 0; q < columns; q++) {
        begins[q] = augment_weights(p, w, q, weights + q * taps, &counts[q]);
        if (begins[q] * n < from) from = begins[q] * n;
        if ((begins[q] + counts[q]) * n > to) to = (begins[q] + counts[q]) * n;
    }
    for (int i = 0; i < 4; i++) sum[length + i] = 0;
    for (ptrdiff_t r = 0; r < h->out; r++) {
        ptrdiff_t count, row = augment_weights(p, h, r, down, &count);
        augment_sum_rows(&p->in, x, row, count, down, from, to, sum);
        if (to < length)
            for (int i = 0; i < 4 && to + i < length; i++) sum[to + i] = 0;
        for (ptrdiff_t q = 0; q < columns; q++) {
            const float *weight = weights + q * taps;
            for (ptrdiff_t c = 0; c < n; c += 4) {
                const float *line = sum + begins[q] * n + c;
                augment_four v = AUGMENT_SET(weight[0]) * AUGMENT_LOAD(line);
                for (ptrdiff_t k = 1; k < counts[q]; k++)
                    v += AUGMENT_SET(weight[k]) * AUGMENT_LOAD(line + k * n);
                int some = n - c < 4 ? (int)(n - c) : 4;
                augment_store_four(p->in.is_float, v, y, (r * columns + q) * n + c, some,
                                   (columns - 1 - q) * n >= 4);
            }
        }
    }
}

/* -- colour ------------------------------------------------------------------------------------- */

/* Weights of red, green and blue in grey: ITU-R BT.601, as in torchvision. */
#define AUGMENT_RED 0.2989f
#define AUGMENT_GREEN 0.587f
#define AUGMENT_BLUE 0.114f

/* A plane holds one channel, values from 0 to 1, padded to whole vectors. */
CK_INLINE ptrdiff_t augment_plane(const ck_picture *p) {
    return (p->height * p->width + VL_F - 1) / VL_F * VL_F;
}

static ptrdiff_t augment_color_scratch(const ck_picture *p) {
    return p->channels * augment_plane(p);
}

CK_INLINE vfloat augment_unit(vfloat v) { return at_most_f(at_least_f(v, set_f(0)), set_f(1)); }

CK_INLINE vfloat augment_grey(const vfloat v[3], ptrdiff_t channels) {
    return channels == 1 ? v[0]
                         : AUGMENT_RED * v[0] + AUGMENT_GREEN * v[1] + AUGMENT_BLUE * v[2];
}

static float augment_mean_grey(const ck_picture *p, const float *planes) {
    const ptrdiff_t pixels = p->height * p->width, plane = augment_plane(p);
    double total = 0;
    /* Long sums of floats lose digits: rows of blocks are added up in double. */
    for (ptrdiff_t block = 0; block < pixels; block += 64 * VL_F) {
        vfloat sum = {0};
        for (ptrdiff_t i = block; i < pixels && i < block + 64 * VL_F; i += VL_F) {
            vfloat v[3];
            for (ptrdiff_t c = 0; c < p->channels; c++) v[c] = load_f(planes + c * plane + i);
            vfloat grey = augment_grey(v, p->channels);
            sum += pixels - i < VL_F ? keep_first_f(grey, (int)(pixels - i)) : grey;
        }
        total += (double)sum_lanes_f(sum);
    }
    return (float)(total / (double)pixels);
}

/* Red, green and blue with the hue moved by `turn` in [-1, 1]: to hue, value and the spread
   between largest and smallest channel (saturation times value), and back
   (Smith, "Color gamut transform pairs", 1978). */
CK_INLINE void augment_hue(vfloat v[3], vfloat turn) {
    const vfloat r = v[0], g = v[1], b = v[2];
    vfloat high = at_least_f(at_least_f(r, g), b), low = at_most_f(at_most_f(r, g), b);
    vfloat spread = high - low;
    vfloat per = 1.0f / select_f(spread > 0, spread, set_f(1));
    vfloat sextant = select_f(r == high, (g - b) * per,
                              select_f(g == high, (b - r) * per + 2.0f, (r - g) * per + 4.0f));
    /* From -1 to 5, moved by at most 6, then into 0 to 6. */
    sextant += 6.0f * turn;
    sextant = select_f(sextant < 0, sextant + 6.0f, sextant);
    sextant = select_f(sextant < 0, sextant + 6.0f, sextant);
    sextant = select_f(sextant >= 6.0f, sextant - 6.0f, sextant);
    for (int c = 0; c < 3; c++) {
        vfloat k = sextant + (float)(5 - 2 * c);
        k = select_f(k >= 6.0f, k - 6.0f, k);
        v[c] = high - spread * augment_unit(at_most_f(k, 4.0f - k));
    }
}

CK_INLINE void augment_color_pixels(const ck_color_step *step, vfloat v[3], ptrdiff_t channels,
                                    float mean) {
    const vfloat a = set_f(step->a[0]);
    vfloat grey;
    switch (step->kind) {
    case CK_COLOR_BRIGHTNESS:
        for (ptrdiff_t c = 0; c < channels; c++) v[c] = augment_unit(v[c] * a);
        break;
    case CK_COLOR_CONTRAST:
        for (ptrdiff_t c = 0; c < channels; c++)
            v[c] = augment_unit(a * v[c] + (1.0f - a) * mean);
        break;
    case CK_COLOR_SATURATION:
        grey = augment_grey(v, channels);
        for (ptrdiff_t c = 0; c < channels; c++)
            v[c] = augment_unit(a * v[c] + (1.0f - a) * grey);
        break;
    case CK_COLOR_HUE:
        if (channels == 3) augment_hue(v, a);
        break;
    case CK_COLOR_GREY:
        grey = augment_grey(v, channels);
        for (ptrdiff_t c = 0; c < channels; c++) v[c] = grey;
        break;
    case CK_COLOR_ADD:
        for (ptrdiff_t c = 0; c < channels; c++) v[c] = augment_unit(v[c] + step->a[c]);
        break;
    case CK_COLOR_SCALE:
        for (ptrdiff_t c = 0; c < channels; c++) v[c] = augment_unit(v[c] * step->a[c]);
        break;
    default:
        break;
    }
}

static void augment_color_step(const ck_picture *p, const ck_color_step *step, float *planes) {
    const ptrdiff_t plane = augment_plane(p), channels = p->channels;
    const float mean = step->kind == CK_COLOR_CONTRAST ? augment_mean_grey(p, planes) : 0;
    for (ptrdiff_t i = 0; i < plane; i += VL_F) {
        vfloat v[3];
        for (ptrdiff_t c = 0; c < channels; c++) v[c] = load_f(planes + c * plane + i);
        augment_color_pixels(step, v, channels, mean);
        for (ptrdiff_t c = 0; c < channels; c++) store_f(planes + c * plane + i, v[c]);
    }
}

/* Channels apart, and together again. */
CK_INLINE void augment_to_planes(const ck_picture *p, const void *x, float *planes, int channels) {
    const ptrdiff_t pixels = p->height * p->width, plane = augment_plane(p);
    for (int c = 0; c < channels; c++) {
        float *to = planes + c * plane;
        if (p->is_float)
            for (ptrdiff_t i = 0; i < pixels; i++) to[i] = ((const float *)x)[i * channels + c];
        else
            for (ptrdiff_t i = 0; i < pixels; i++)
                to[i] = (float)((const uint8_t *)x)[i * channels + c] * (1.0f / 255);
        for (ptrdiff_t i = pixels; i < plane; i++) to[i] = 0;
    }
}

CK_INLINE void augment_from_planes(const ck_picture *p, const float *planes, void *y,
                                   int channels) {
    const ptrdiff_t pixels = p->height * p->width, plane = augment_plane(p);
    if (p->is_float) {
        for (ptrdiff_t i = 0; i < pixels; i++)
            for (int c = 0; c < channels; c++)
                ((float *)y)[i * channels + c] = planes[c * plane + i];
    } else {
        /* Values are within 0 to 1 after any step. */
        for (ptrdiff_t i = 0; i < pixels; i++)
            for (int c = 0; c < channels; c++)
                ((uint8_t *)y)[i * channels + c] =
                    (uint8_t)(int32_t)(planes[c * plane + i] * 255.0f + 0.5f);
    }
}

static void augment_color(const ck_picture *p, const ck_color_step *steps, ptrdiff_t count,
                          const void *x, void *y, float *scratch) {
    ptrdiff_t active = 0;
    for (ptrdiff_t s = 0; s < count; s++) active += steps[s].kind != CK_COLOR_NONE;
    if (active == 0) {
        size_t elements = (size_t)(p->height * p->width * p->channels);
        memcpy(y, x, elements * (p->is_float ? sizeof(float) : 1));
        return;
    }
    if (p->channels == 3)
        augment_to_planes(p, x, scratch, 3);
    else
        augment_to_planes(p, x, scratch, 1);
    for (ptrdiff_t s = 0; s < count; s++)
        if (steps[s].kind != CK_COLOR_NONE) augment_color_step(p, &steps[s], scratch);
    if (p->channels == 3)
        augment_from_planes(p, scratch, y, 3);
    else
        augment_from_planes(p, scratch, y, 1);
}

/* -- Gaussian blur -------------------------------------------------------------------------------- */

/* The picture as floats, one row with a border, and the weights. */
static ptrdiff_t augment_blur_scratch(const ck_picture *p, ptrdiff_t radius) {
    return p->height * p->width * p->channels + (p->width + 2 * radius) * p->channels +
           p->width * p->channels + radius + 1;
}

static void augment_gauss(double sigma, ptrdiff_t radius, float *weight) {
    double total = 1;
    for (ptrdiff_t k = 1; k <= radius; k++) total += 2 * exp(-0.5 * (double)(k * k) / (sigma * sigma));
    weight[0] = (float)(1 / total);
    for (ptrdiff_t k = 1; k <= radius; k++)
        weight[k] = (float)(exp(-0.5 * (double)(k * k) / (sigma * sigma)) / total);
}

static void augment_blur(const ck_picture *p, double sigma, ptrdiff_t radius, const void *x,
                         void *y, float *scratch) {
    const ptrdiff_t n = p->channels, length = p->width * n;
    float *staged = scratch, *row = staged + p->height * length;
    float *sum = row + length + 2 * radius * n, *weight = sum + length;
    if (!(sigma > 0)) radius = 0;
    augment_gauss(sigma, radius, weight);
    augment_load(p->is_float, x, 0, staged, p->height * length);
    for (ptrdiff_t r = 0; r < p->height; r++) {
        float *middle = row + radius * n;
        for (ptrdiff_t i = 0; i < length; i++) middle[i] = weight[0] * staged[r * length + i];
        for (ptrdiff_t k = 1; k <= radius; k++) {
            const float *up = staged + augment_reflect(r - k, p->height) * length;
            const float *down = staged + augment_reflect(r + k, p->height) * length;
            const float w = weight[k];
            for (ptrdiff_t i = 0; i < length; i++) middle[i] += w * (up[i] + down[i]);
        }
        for (ptrdiff_t k = 1; k <= radius; k++)
            for (ptrdiff_t c = 0; c < n; c++) {
                middle[-k * n + c] = middle[augment_reflect(-k, p->width) * n + c];
                middle[(p->width - 1 + k) * n + c] =
                    middle[augment_reflect(p->width - 1 + k, p->width) * n + c];
            }
        for (ptrdiff_t i = 0; i < length; i++) sum[i] = weight[0] * middle[i];
        for (ptrdiff_t k = 1; k <= radius; k++) {
            const float *left = middle - k * n, *right = middle + k * n;
            const float w = weight[k];
            for (ptrdiff_t i = 0; i < length; i++) sum[i] += w * (left[i] + right[i]);
        }
        augment_store(p->is_float, sum, y, r * length, length);
    }
}

/* -- Sobel ------------------------------------------------------------------------------------------ */

static ptrdiff_t augment_sobel_scratch(const ck_picture *p) {
    return p->height * p->width * p->channels + 2 * (p->width + 2) * p->channels +
           p->width * p->channels;
}

/* A row with one pixel of border: the sum of three rows, weighted 1 2 1, and the difference of
   the outer two; the edge's pixels are repeated beyond it. */
static void augment_sobel(const ck_picture *p, const void *x, void *y, float *scratch) {
    const ptrdiff_t n = p->channels, length = p->width * n;
    float *staged = scratch, *smooth = staged + p->height * length + n;
    float *slope = smooth + length + 2 * n, *out = slope + length + n;
    augment_load(p->is_float, x, 0, staged, p->height * length);
    for (ptrdiff_t r = 0; r < p->height; r++) {
        const float *here = staged + r * length;
        const float *up = r > 0 ? here - length : here;
        const float *down = r + 1 < p->height ? here + length : here;
        for (ptrdiff_t i = 0; i < length; i++) {
            smooth[i] = up[i] + 2 * here[i] + down[i];
            slope[i] = down[i] - up[i];
        }
        for (ptrdiff_t c = 0; c < n; c++) {
            smooth[c - n] = smooth[c];
            slope[c - n] = slope[c];
            smooth[length + c] = smooth[length - n + c];
            slope[length + c] = slope[length - n + c];
        }
        for (ptrdiff_t i = 0; i < length; i++) {
            float gx = smooth[i + n] - smooth[i - n];
            float gy = slope[i - n] + 2 * slope[i] + slope[i + n];
            out[i] = 0.25f * sqrtf(gx * gx + gy * gy);
        }
        augment_store(p->is_float, out, y, r * length, length);
    }
}

/* -- noise -------------------------------------------------------------------------------------------- */

/* Blocks made side by side; four times as many numbers. */
#define AUGMENT_BLOCKS 16

/* sin and cos of a in [-pi/4, pi/4]: the series of Taylor to the last place of float. */
CK_INLINE vfloat augment_sin(vfloat a) {
    vfloat s = a * a;
    return a * (1.0f + s * (-1.0f / 6 + s * (1.0f / 120 + s * (-1.0f / 5040 + s * (1.0f / 362880)))));
}
CK_INLINE vfloat augment_cos(vfloat a) {
    vfloat s = a * a;
    return 1.0f + s * (-0.5f + s * (1.0f / 24 + s * (-1.0f / 720 + s * (1.0f / 40320))));
}

/* Two standard normal numbers from two random words (Box and Muller, 1958). */
CK_INLINE void augment_normal(vint32 u, vint32 v, vfloat *z0, vfloat *z1) {
    /* 1 to 2^24 over 2^24: never 0. */
    vfloat uniform = (__builtin_convertvector((u >> 8) & 0xffffff, vfloat) + 1.0f) * 0x1p-24f;
    vfloat square = -2.0f * log_f(uniform);
    vfloat radius;
    for (int i = 0; i < VL_F; i++) radius[i] = sqrtf(square[i]);
    /* An eighth of a turn to either side of a multiple of a quarter. */
    vfloat turn = __builtin_convertvector((v >> 8) & 0x3fffff, vfloat) * 0x1p-22f - 0.5f;
    vfloat c = augment_cos(turn * 1.57079632679489662f), s = augment_sin(turn * 1.57079632679489662f);
    vint32 swap = (vint32){0} - ((v >> 30) & 1), flip = v & (int32_t)0x80000000;
    vfloat first = select_f(swap, -s, c), second = select_f(swap, c, s);
    *z0 = radius * (vfloat)((vint32)first ^ flip);
    *z1 = radius * (vfloat)((vint32)second ^ flip);
}

/* Standard normal numbers 64 * group and following. */
static void augment_normals(const ck_noise_args *p, ptrdiff_t group, float *z) {
    uint32_t word[4][AUGMENT_BLOCKS];
    for (int i = 0; i < AUGMENT_BLOCKS; i++) {
        word[0][i] = (uint32_t)(group * AUGMENT_BLOCKS + i);
        word[1][i] = p->id[0];
        word[2][i] = p->id[1];
        word[3][i] = p->stream;
    }
    uint32_t k0 = p->key[0], k1 = p->key[1];
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < AUGMENT_BLOCKS; i++) {
            uint64_t p0 = (uint64_t)CK_PHILOX_M0 * word[0][i], p1 = (uint64_t)CK_PHILOX_M1 * word[2][i];
            uint32_t c1 = word[1][i], c3 = word[3][i];
            word[0][i] = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
            word[1][i] = (uint32_t)p1;
            word[2][i] = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
            word[3][i] = (uint32_t)p0;
        }
        k0 += CK_PHILOX_W0;
        k1 += CK_PHILOX_W1;
    }
    for (int i = 0; i < AUGMENT_BLOCKS; i += VL_F)
        for (int j = 0; j < 4; j += 2) {
            vfloat z0, z1;
            augment_normal(*(const vint32_u *)&word[j][i], *(const vint32_u *)&word[j + 1][i], &z0,
                           &z1);
            store_f(z + j * AUGMENT_BLOCKS + i, z0);
            store_f(z + (j + 1) * AUGMENT_BLOCKS + i, z1);
        }
}

static void augment_noise(const ck_noise_args *p, const void *x, void *y) {
    const int cut = p->low <= p->high;
    float z[4 * AUGMENT_BLOCKS], v[4 * AUGMENT_BLOCKS];
    for (ptrdiff_t at = 0; at < p->count; at += 4 * AUGMENT_BLOCKS) {
        ptrdiff_t n = p->count - at < 4 * AUGMENT_BLOCKS ? p->count - at : 4 * AUGMENT_BLOCKS;
        augment_normals(p, at / (4 * AUGMENT_BLOCKS), z);
        augment_load(p->is_float, x, at, v, n);
        for (ptrdiff_t i = 0; i < n; i++) v[i] += p->mean + p->sigma * z[i];
        if (cut)
            for (ptrdiff_t i = 0; i < n; i++) v[i] = augment_clamp(v[i], p->low, p->high);
        augment_store(p->is_float, v, y, at, n);
    }
}

/* -- mixing ---------------------------------------------------------------------------------------------- */

static void augment_mix(const ck_picture *p, float share, const void *a, const void *b, void *y) {
    const ptrdiff_t n = p->height * p->width * p->channels;
    const float rest = 1 - share;
    if (p->is_float) {
        const float *from = a, *other = b;
        float *to = y;
        for (ptrdiff_t i = 0; i < n; i++) to[i] = share * from[i] + rest * other[i];
    } else {
        const uint8_t *from = a, *other = b;
        uint8_t *to = y;
        for (ptrdiff_t i = 0; i < n; i++)
            to[i] = (uint8_t)(int32_t)(share * (float)from[i] + rest * (float)other[i] + 0.5f);
    }
}

static const ck_augment_table augment_table = {
    .warp_scratch = augment_warp_scratch,
    .warp = augment_warp,
    .resize_scratch = augment_resize_scratch,
    .resize = augment_resize,
    .color_scratch = augment_color_scratch,
    .color = augment_color,
    .blur_scratch = augment_blur_scratch,
    .blur = augment_blur,
    .sobel_scratch = augment_sobel_scratch,
    .sobel = augment_sobel,
    .noise = augment_noise,
    .mix = augment_mix,
};
