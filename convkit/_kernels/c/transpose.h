/* Transposing blocks of a vector length by a vector length: what packing weights, and
   bringing their gradients back to the order of weights, are made of. */
#ifndef CK_TRANSPOSE_H
#define CK_TRANSPOSE_H

#include <stddef.h>

enum {
    CK_TRANSPOSE_MAX = 16,   /* the most lanes of a vector */
    CK_TRANSPOSE_BYTES = 16, /* of a row of a block of small elements */
};

typedef struct ck_transpose_table {
    /* Lane r of the vector targets[i] becomes element i of row r, which lies at source +
       r * step; lanes from `rows` on become zero. `count` elements of each row are read, and
       as many vectors written, without those whose target is NULL. [0] float, [1] double. */
    void (*to_vectors[2])(const void *source, ptrdiff_t step, int rows, int count,
                          void *const *targets);
    /* The way back: element i of row r, at target + r * step, becomes the sum over `parts`
       of lane r of the vector sources[i] + part * part_step, in order of parts. */
    void (*from_vectors[2])(const void *const *sources, ptrdiff_t parts, ptrdiff_t part_step,
                            int rows, int count, void *target, ptrdiff_t step);
    /* A square block of CK_TRANSPOSE_BYTES / size rows of that many elements of `size` bytes, steps in
       bytes. [0] elements of one byte, [1] of two. */
    void (*small[2])(const char *source, ptrdiff_t source_step, char *target, ptrdiff_t target_step);
} ck_transpose_table;

#endif
