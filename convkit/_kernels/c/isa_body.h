/* Everything one instruction set needs, compiled once per isa_*.c.

   The including file defines what isa_begin.h wants, and
     CK_ISA               name, used for the exported table ck_table_<name>
     CK_VECTOR_REGISTERS  how many vector registers there are
     CK_WITH_TILES        (optional) also exports ck_table_amx: these kernels and those of
                          isa_amx.c; and uses isa_vnni.c where the CPU has VNNI, isa_fp16.c
                          where it has AVX512-FP16 */
#include "isa_begin.h"

#include "elementwise.body.h"
#include "transpose.body.h"
#include "gemm.body.h"
#include "depthwise.body.h"
#include "fold.body.h"
#include "gather.body.h"
#include "softmax.body.h"
#include "loss.body.h"
#include "norm.body.h"
#include "optim.body.h"
#include "pool.body.h"
#include "resample.body.h"
#include "rownorm.body.h"
#include "winograd.body.h"
#include "augment.body.h"
#include "int8.body.h"
#include "quant.body.h"

#define CK_TABLE(isa, ...)                      \
    const ck_table CK_CAT(ck_table_, isa) = {   \
        .name = CK_STR(isa),                    \
        .vector_bytes = CK_VBYTES,              \
        .gemm = &gemm_table,                    \
        .depthwise = &depthwise_table,          \
        .elementwise = &elementwise_table,      \
        .fold = &fold_table,                    \
        .gather = &gather_table,                  \
        .loss = &loss_table,                    \
        .norm = &norm_table,                    \
        .optim = &optim_table,                  \
        .pool = &pool_table,                    \
        .quant = &quant_table,                  \
        .resample = &resample_table,            \
        .rownorm = &rownorm_table,              \
        .softmax = &softmax_table,              \
        .transpose = &transpose_table,          \
        .winograd = &winograd_table,            \
        .augment = &augment_table,              \
        __VA_ARGS__                             \
    }

#ifdef CK_WITH_TILES
#ifdef CK_HAVE_HALF
#define CK_HALF &ck_table_half
#else
#define CK_HALF NULL
#endif
CK_TABLE(CK_ISA, .int8 = &int8_table, .int8_vnni = &ck_table_vnni_int8,
         .winograd_vnni = ck_table_vnni_winograd, .half = CK_HALF);
CK_TABLE(avx512_bf16, .int8 = &int8_table, .int8_vnni = &ck_table_vnni_int8,
         .winograd_vnni = ck_table_vnni_winograd, .tile = &ck_table_pairs,
         .tilegrad = &ck_table_pairs_grad);
CK_TABLE(amx, .int8 = &int8_table, .int8_vnni = &ck_table_vnni_int8,
         .winograd_vnni = ck_table_vnni_winograd, .half = CK_HALF,
         .int8_tile = &ck_table_amx_int8, .tile = &ck_table_amx_tile, .tilegrad = &ck_table_amx_grad, .winograd_tile = &ck_table_amx_winograd);
#else
CK_TABLE(CK_ISA, .int8 = &int8_table);
#endif

#include "isa_end.h"
