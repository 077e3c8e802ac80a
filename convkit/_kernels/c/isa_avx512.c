/* Kernels for x86-64 CPUs with AVX-512 F, BW, VL and DQ; an empty unit elsewhere. */
#if defined(__x86_64__)
#define CK_ISA avx512
#define CK_VBYTES 64
#define CK_VECTOR_REGISTERS 32
#define CK_WITH_TILES
#define CK_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,bmi,bmi2"
#include "isa_body.h"
#else
typedef int ck_no_avx512_here;
#endif
