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
#define INT8_ROWS (CK_VECTOR_REGISTERS >= 32 ? 14 : 6)
#include "int8.tile.h"

static void int8_prepare_pairs(const uint8_t *a, ptrdiff_t lda, ptrdiff_t rows, ptrdiff_t k,
                               ptrdiff_t padded, int is_signed, void *out) {
    int16_t *wide = out;
    for (ptrdiff_t m = 0; m < rows; m++, a += lda, wide += padded) {
        if (is_signed)
            for (ptrdiff_t i = 0; i < k; i++) wide[i] = ((const int8_t *)a)[i];
        else
            for (ptrdiff_t i = 0; i < k; i++) wide[i] = a[i];
        for (ptrdiff_t i = k; i < padded; i++) wide[i] = 0;
    }
}

static const ck_int8_kernels int8_table = {
    .rows = INT8_ROWS,
    .columns = INT8_COLUMNS,
    .group = INT8_GROUP,
    .bytes = 2,
    .multiple = 2,
    .shifted = 0,
    .prepare = int8_prepare_pairs,
    .run = {int8_run, int8_run},
};
