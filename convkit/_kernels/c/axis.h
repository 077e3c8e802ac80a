/* One axis of a windowed operation as lists: which sources each target is made of. */
#ifndef CK_AXIS_H
#define CK_AXIS_H

#include <stddef.h>
#include <stdint.h>

/* Target t draws on the sources source[e], begin[t] <= e < begin[t + 1]. Forward, targets are
   outputs and sources inputs; the transposed lists serve backward, as a gather too. */
typedef struct ck_axis {
    ptrdiff_t targets, sources;
    const int32_t *begin;
    const int32_t *source;
    const int32_t *tap;      /* which tap of its window the entry is (max pooling) */
    const float *weight_f;   /* what the entry counts for (averages, interpolation) */
    const double *weight_d;
    /* Targets cut where first sources do not follow each other: run r is of the targets from
       run_target[r] to run_target[r + 1], from source run_source[r] on; -1 where they have none. */
    ptrdiff_t runs;
    const int32_t *run_target;
    const int32_t *run_source;
} ck_axis;

#endif
