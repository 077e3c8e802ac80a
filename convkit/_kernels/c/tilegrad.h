/* Gradients of weights on tiles: C[o, c] += sum over pixels p of gy[p, o] * x[p, c].

   Both factors are held as bfloat16, in the plain or the split form (tile.h), packed by steps of
   32 pixels: the output's gradient as tiles of 16 channels by 32 pixels, the input as pairs of
   neighbouring pixels, 16 channels side by side, so that a tile of 16 pairs may begin at any
   pair: where a tap of the kernel puts it. */
#ifndef CK_TILEGRAD_H
#define CK_TILEGRAD_H

#include <stddef.h>
#include <stdint.h>

enum {
    CK_GRAD_CHANNELS = 16, /* of a tile of either factor */
    CK_GRAD_PIXELS = 32,   /* of a step */
    CK_GRAD_PAIRS = 16,
    CK_GRAD_COLUMNS = 4, /* most column tiles of a call with one tile of rows; else 2 */
    CK_GRAD_TILE = 256   /* floats of a tile of C */
};

typedef struct ck_tilegrad_args {
    const char *a;                  /* steps: the high tiles of the row blocks, then the low ones */
    const char *b[CK_GRAD_COLUMNS]; /* first pair of each column tile: high, then low parts */
    ptrdiff_t steps;
    float *c; /* tiles: for each column tile those of the row blocks */
    int accumulate;
    void (*aside)(void *of); /* called with each step, or NULL: vectors are idle meanwhile */
    void *of;
} ck_tilegrad_args;

typedef void (*ck_tilegrad_fn)(const ck_tilegrad_args *);

/* How the input lies in memory: as numbers, or as what they are made from on the way. */
enum ck_tilegrad_source {
    CK_GRAD_FLOATS,
    CK_GRAD_HALVES, /* bfloat16 */
    CK_GRAD_MADE_OF_FLOATS,
    CK_GRAD_MADE_OF_HALVES,
    CK_GRAD_SOURCES
};

/* What numbers are made by: (x - center) * scale + shift between low and high, x being a float;
   bfloat16 are centred before they are kept. One center, scale and shift for each channel. Blank
   pixels, which are where `blank` says, stay zero. */
typedef struct ck_tilegrad_maker {
    const float *center, *scale, *shift;
    float low, high;
    const char *blank;
} ck_tilegrad_maker;

/* Packs up to 16 channels of 16 pairs of pixels, from `channel` on, into pairs for B. Pixels are
   where `pixels` says (32, and two more), and the lines where `next` says are fetched. Unless
   `odd` is 0, so many bytes on also the pairs that begin one pixel later. Returns the largest bits
   of a magnitude as a bfloat16: those of infinity or more where a value does not have one. */
typedef uint32_t (*ck_tilegrad_pairs_fn)(const char *const *pixels, const char *const *next,
                                         ptrdiff_t channel, int channels, char *to, ptrdiff_t odd,
                                         const ck_tilegrad_maker *maker);

typedef uint32_t (*ck_tilegrad_turned_fn)(const char *const *pixels, const char *const *next,
                                          ptrdiff_t channel, int channels, char *to,
                                          ptrdiff_t low);

/* The same of 32 channels of bfloat16, which are a line of cache, into two tiles `second` bytes
   apart. Pixels have so many `lines`, of which a call converts one and fetches as many ahead. */
typedef uint32_t (*ck_tilegrad_lines_fn)(const char *const *pixels, const char *const *next,
                                         ptrdiff_t line, ptrdiff_t lines, char *to,
                                         ptrdiff_t second);

typedef struct ck_tilegrad_form {
    int planes;
    ck_tilegrad_fn run[2][CK_GRAD_COLUMNS]; /* by [row tiles - 1][column tiles - 1], or NULL */
    ck_tilegrad_pairs_fn pairs[CK_GRAD_SOURCES]; /* NULL: the form does not read these */
    /* The same of 32 pixels of floats or bfloat16 (the first sources), into tiles of A `low` bytes
       apart. */
    ck_tilegrad_turned_fn turned[2];
    ck_tilegrad_lines_fn pairs_lines, turned_lines; /* or NULL; pairs that begin at even pixels */
} ck_tilegrad_form;

typedef struct ck_tilegrad_table {
    /* Sets the calling thread's tiles. Both are NULL where products are made on vectors. */
    void (*configure)(void);
    void (*release)(void);
    ck_tilegrad_form plain, split;
    /* Adds up the parts of one row of up to 16 sums; `stream` where the result need not stay in
       cache, until `settle` not visible to others. */
    void (*join)(const float *sums, ptrdiff_t parts, ptrdiff_t part_step, int columns,
                 float *target, int stream);
    void (*settle)(void);
} ck_tilegrad_table;

#endif
