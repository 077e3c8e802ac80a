/* Kernels for x86-64 CPUs with AVX2 and FMA; an empty unit elsewhere. */
#if defined(__x86_64__)
#define CK_ISA avx2
#define CK_VBYTES 32
#define CK_VECTOR_REGISTERS 16
#define CK_TARGET "avx2,fma,bmi,bmi2"
#include "isa_body.h"
#else
typedef int ck_no_avx2_here;
#endif
