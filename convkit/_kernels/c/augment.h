/* Augmentation of one image at a time: (height, width, channels) in memory, bytes or floats.

   Every kernel gets scratch memory of the size that its *_scratch function tells. */
#ifndef CK_AUGMENT_H
#define CK_AUGMENT_H

#include <stddef.h>
#include <stdint.h>

/* Images in and out are of the same element type. */
typedef struct ck_picture {
    ptrdiff_t height, width, channels;
    int is_float;
} ck_picture;

/* One resampling by an affine map: output pixel (x, y) shows the source at
   (m[0] x + m[1] y + m[2], m[3] x + m[4] y + m[5]), in pixels, pixel centres at integers. */
typedef struct ck_warp_args {
    ck_picture in;
    ptrdiff_t out_height, out_width;
    int bilinear; /* else the nearest pixel */
    int edge;     /* beyond the frame: the edge's pixels, else the fill */
    const float *fill; /* one value for each channel, in the images' own range */
} ck_warp_args;

/* One axis of a resize: output i shows the source around offset + (i + 0.5) * scale, of which
   only positions low <= k < high count. */
typedef struct ck_resize_axis {
    double scale, offset;
    ptrdiff_t low, high, out;
} ck_resize_axis;

typedef struct ck_resize_args {
    ck_picture in;
    int bilinear, antialias;
} ck_resize_args;

enum ck_color {
    CK_COLOR_NONE,
    CK_COLOR_BRIGHTNESS, /* v * a[0] */
    CK_COLOR_CONTRAST,   /* mean grey + (v - mean grey) * a[0] */
    CK_COLOR_SATURATION, /* grey + (v - grey) * a[0] */
    CK_COLOR_HUE,        /* hue + a[0], in turns */
    CK_COLOR_GREY,       /* grey in every channel */
    CK_COLOR_ADD,        /* v + a[channel] */
    CK_COLOR_SCALE,      /* v * a[channel] */
    CK_COLOR_COUNT
};

typedef struct ck_color_step {
    int32_t kind;
    float a[3];
} ck_color_step;

/* Additive Gaussian noise of a counter-based generator (Philox4x32-10). */
typedef struct ck_noise_args {
    ptrdiff_t count;
    int is_float;
    float mean, sigma; /* in the images' own range */
    float low, high;   /* results are cut to this range; not cut where low > high */
    uint32_t key[2], id[2], stream;
} ck_noise_args;

typedef struct ck_augment_table {
    ptrdiff_t (*warp_scratch)(const ck_warp_args *); /* in floats, as all of these */
    void (*warp)(const ck_warp_args *, const double *m, const void *x, void *y, float *scratch);
    ptrdiff_t (*resize_scratch)(const ck_resize_args *, const ck_resize_axis *h,
                                const ck_resize_axis *w);
    void (*resize)(const ck_resize_args *, const ck_resize_axis *h, const ck_resize_axis *w,
                   const void *x, void *y, float *scratch);
    ptrdiff_t (*color_scratch)(const ck_picture *);
    void (*color)(const ck_picture *, const ck_color_step *, ptrdiff_t steps, const void *x,
                  void *y, float *scratch);
    ptrdiff_t (*blur_scratch)(const ck_picture *, ptrdiff_t radius);
    void (*blur)(const ck_picture *, double sigma, ptrdiff_t radius, const void *x, void *y,
                 float *scratch);
    ptrdiff_t (*sobel_scratch)(const ck_picture *);
    void (*sobel)(const ck_picture *, const void *x, void *y, float *scratch);
    void (*noise)(const ck_noise_args *, const void *x, void *y);
    /* y = a * share + b * (1 - share) */
    void (*mix)(const ck_picture *, float share, const void *a, const void *b, void *y);
} ck_augment_table;

#endif
