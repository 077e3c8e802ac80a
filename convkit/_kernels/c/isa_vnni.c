/* Byte products for CPUs with AVX-512 VNNI; an empty unit elsewhere. */
#if defined(__x86_64__)
#define CK_VBYTES 64
#define CK_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,bmi,bmi2"
#include "isa_begin.h"

/* The instruction multiplies unsigned by signed bytes: signed A is held with 128 added. */
#define INT8_DOT(sum, a, b) \
    ((vint32)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(a), (__m512i)(b)))
#define INT8_GROUP 4
#define INT8_ROWS 14
#include "int8.tile.h"
#include "int8.bytes.h"

static void int8_prepare_unsigned(const uint8_t *a, ptrdiff_t lda, ptrdiff_t rows, ptrdiff_t k,
                                  ptrdiff_t padded, int is_signed, void *out) {
    int8_prepare_bytes(a, lda, rows, k, padded, is_signed ? 0x80 : 0, out);
}

const ck_int8_kernels ck_table_vnni_int8 = {
    .rows = INT8_ROWS,
    .columns = INT8_COLUMNS,
    .group = INT8_GROUP,
    .bytes = 1,
    .multiple = INT8_GROUP,
    .shifted = 1,
    .prepare = int8_prepare_unsigned,
    .run = {int8_run, int8_run},
};
#include "isa_end.h"
#else
typedef int ck_no_vnni_here;
#endif
