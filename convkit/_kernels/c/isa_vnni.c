/* Products of bytes and of 16-bit integers for CPUs with AVX-512 VNNI; an empty unit elsewhere. */
#if defined(__x86_64__)
#define CK_VBYTES 64
#define CK_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,bmi,bmi2"
#include "isa_begin.h"

#include "gemm.shapes.h"

#define INT8_DOT(sum, a, b) \
    ((vint32)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(a), (__m512i)(b)))
#define INT8_GROUP 4
#define INT8_MOST_ROWS 14
#define INT8_ROWS GEMM_ROWS_14
#include "int8.tile.h"
#include "int8.walk.h"
#include "winograd.int16.h"

const ck_int8_kernels ck_table_vnni_int8 = {
    .max_rows = INT8_MOST_ROWS,
    .columns = INT8_COLUMNS,
    .group = INT8_GROUP,
    .bytes = 1,
    .multiple = INT8_GROUP,
    .halves = 1,
    .half_rows = INT8_HALF,
    .prepare = int8_copy,
    .run = int8_run,
    .depthwise = int8_depthwise,
    .copy = int8_copy,
    .join = int8_join,
    .walk = int8_walk,
};
#include "isa_end.h"
#else
typedef int ck_no_vnni_here;
#endif
