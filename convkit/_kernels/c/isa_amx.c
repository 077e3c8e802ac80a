/* Kernels for x86-64 CPUs with AMX, or with AVX512-BF16 alone, beside those for AVX-512; an empty unit
   elsewhere. */
#if defined(__x86_64__)
#define CK_VBYTES 64
#define CK_VECTOR_REGISTERS 32
#if defined(__clang__)
#define CK_TARGET \
    "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,bmi,bmi2,amx-tile,amx-bf16,amx-int8"
#else
#define CK_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,bmi,bmi2"
#endif
#include "isa_begin.h"
#ifndef CK_AMX_EMULATED
#include "amx.h"
#endif

#include "tile.body.h"
#include "pairs.body.h"
#include "int8tile.body.h"
#include "tilegrad.body.h"
#include "pairs.grad.h"
#include "winograd.tiles.h"
#include "isa_end.h"
#else
typedef int ck_no_amx_here;
#endif
