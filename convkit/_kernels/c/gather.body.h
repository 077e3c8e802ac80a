/* Kernels that gather a convolution's moments. */
#include "halves.h"
#include "real_f.h"
#ifdef CK_WITH_TILES
#define GATHER_HALVES
#endif
#include "gather.real.h"
#undef GATHER_HALVES
#include "real_d.h"
#include "gather.real.h"
#include "real_end.h"

static const ck_gather_table gather_table = {
    .add = {gather_add_f, gather_add_d},
    .merge = {gather_merge_f, gather_merge_d},
};
