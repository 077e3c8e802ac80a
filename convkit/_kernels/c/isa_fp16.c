/* Kernels for x86-64 CPUs with AVX512-FP16, beside those for AVX-512; an empty unit elsewhere. */
#define CK_VBYTES 64
#define CK_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512fp16,avx2,fma,bmi,bmi2"
#include "table.h"
#ifdef CK_HAVE_HALF
#include "isa_begin.h"

#include "half.body.h"
#include "isa_end.h"
#else
typedef int ck_no_fp16_here;
#endif
