/* Kernels that gather a convolution's moments. */
#include "real_f.h"
#include "gather.real.h"
#include "real_d.h"
#include "gather.real.h"
#include "real_end.h"

static const ck_gather_table gather_table = {
    .add = {gather_add_f, gather_add_d},
    .merge = {gather_merge_f, gather_merge_d},
};
