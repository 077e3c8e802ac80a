/* The table of pointers through which all compute kernels are called: one struct per
   family, filled in by each instruction set, chosen once at import. */
#ifndef CK_TABLE_H
#define CK_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "augment.h"
#include "depthwise.h"
#include "elementwise.h"
#include "fold.h"
#include "gather.h"
#include "gemm.h"
#include "int8.h"
#include "loss.h"
#include "norm.h"
#include "optim.h"
#include "pool.h"
#include "quant.h"
#include "resample.h"
#include "rownorm.h"
#include "softmax.h"
#include "transpose.h"
#include "winograd.h"
#include "tile.h"
#include "tilegrad.h"

/* Whether the compiler knows AVX512-FP16. */
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 16 : __GNUC__ >= 12)
#define CK_HAVE_HALF 1
#endif

typedef struct ck_table {
    const char *name;
    int vector_bytes;
    const ck_gemm_table *gemm;
    const ck_depthwise_table *depthwise;
    const ck_elementwise_table *elementwise;
    const ck_fold_table *fold;
    const ck_gather_table *gather;
    const ck_loss_table *loss;
    const ck_norm_table *norm;
    const ck_optim_table *optim;
    const ck_pool_table *pool;
    const ck_quant_table *quant;
    const ck_resample_table *resample;
    const ck_rownorm_table *rownorm;
    const ck_softmax_table *softmax;
    const ck_transpose_table *transpose;
    const ck_winograd_table *winograd;
    const ck_augment_table *augment;
    const ck_int8_kernels *int8;
    const ck_int8_kernels *int8_vnni; /* for CPUs with VNNI, or NULL */
    const ck_int8_kernels *int8_tile; /* on tiles, or NULL */
    const ck_tile_table *tile;        /* products of bfloat16, on tiles or vectors, or NULL */
    const ck_tile_table *half;        /* for CPUs with AVX512-FP16, or NULL */
    const ck_tilegrad_table *tilegrad; /* as `tile` */
    const ck_winograd_kernels *winograd_tile; /* on tiles, or NULL */
    const ck_winograd_kernels *winograd_vnni; /* all forms, for CPUs with VNNI, or NULL */
} ck_table;

extern const ck_table ck_table_generic;
#if defined(__x86_64__)
extern const ck_table ck_table_avx2;
extern const ck_table ck_table_avx512;
extern const ck_table ck_table_avx512_bf16;
extern const ck_table ck_table_amx;
extern const ck_int8_kernels ck_table_vnni_int8;
extern const ck_int8_kernels ck_table_amx_int8;
extern const ck_tile_table ck_table_amx_tile;
extern const ck_tile_table ck_table_pairs;
extern const ck_tilegrad_table ck_table_pairs_grad;
extern const ck_tilegrad_table ck_table_amx_grad;
extern const ck_winograd_kernels ck_table_amx_winograd;
extern const ck_winograd_kernels ck_table_vnni_winograd[CK_WINOGRAD_INT16_FORMS];
extern const ck_tile_table ck_table_half;
#endif

/* The table of one instruction set, or NULL where it was not compiled in. */
static inline const ck_table *ck_table_for(int isa) {
    switch (isa) {
    case 0:
        return &ck_table_generic;
#if defined(__x86_64__)
    case 1:
        return &ck_table_avx2;
    case 2:
        return &ck_table_avx512;
    case 3:
        return &ck_table_avx512_bf16;
    case 4:
        return &ck_table_amx;
#endif
    default:
        return NULL;
    }
}

#endif
