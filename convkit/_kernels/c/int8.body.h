/* Byte products by way of 16-bit pairs: exact on every CPU. (The byte form of AVX2,
   vpmaddubsw, saturates: 255 * 127 * 2 does not fit its 16 bits.) */

#if CK_VBYTES == 64
#define INT8_PAIRS(a, b) ((vint32)_mm512_madd_epi16((__m512i)(a), (__m512i)(b)))
#elif CK_VBYTES == 32
#define INT8_PAIRS(a, b) ((vint32)_mm256_madd_epi16((__m256i)(a), (__m256i)(b)))
#elif defined(__SSE2__)
typedef int16_t int8_halves __attribute__((vector_size(16)));
#define INT8_PAIRS(a, b) \
    ((vint32)__builtin_ia32_pmaddwd128((int8_halves)(a), (int8_halves)(b)))
#else
#define INT8_PAIRS(a, b) \
    ((((a) << 16) >> 16) * (((b) << 16) >> 16) + ((a) >> 16) * ((b) >> 16))
#endif
#define INT8_DOT(sum, a, b) ((sum) + INT8_PAIRS(a, b))
#define INT8_GROUP 2
#if CK_VECTOR_REGISTERS >= 32
#define INT8_MOST_ROWS 14
#define INT8_ROWS GEMM_ROWS_14
#else
#define INT8_MOST_ROWS 6
#define INT8_ROWS GEMM_ROWS_6
#endif
#include "int8.tile.h"

static void int8_prepare_pairs(const uint8_t *x, ptrdiff_t n, int flip, void *out) {
    uint16_t *wide = out;
    for (ptrdiff_t i = 0; i < n; i++) wide[i] = (uint16_t)(x[i] ^ flip);
}

static const ck_int8_kernels int8_table = {
    .max_rows = INT8_MOST_ROWS,
    .columns = INT8_COLUMNS,
    .group = INT8_GROUP,
    .bytes = 2,
    .multiple = 2,
    .halves = 1,
    .half_rows = INT8_HALF,
    .prepare = int8_prepare_pairs,
    .run = int8_run,
    .depthwise = int8_depthwise,
    .copy = int8_copy,
    .join = int8_join,
};
