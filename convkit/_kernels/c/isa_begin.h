/* Opens one instruction set's unit: target, vector types, small functions. isa_end.h closes it.

   The including file defines
     CK_VBYTES   bytes of a vector register
     CK_TARGET   (optional) the target string; system headers are included first, so that
                 nothing of theirs is compiled for it. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "table.h"

#ifdef CK_TARGET
#include <immintrin.h>
#if defined(__clang__)
#define CK_PRAGMA(x) _Pragma(#x)
#define CK_PUSH(t) CK_PRAGMA(clang attribute push(__attribute__((target(t))), apply_to = function))
CK_PUSH(CK_TARGET)
#else
#pragma GCC push_options
#define CK_PRAGMA(x) _Pragma(#x)
#define CK_PUSH(t) CK_PRAGMA(GCC target(t))
CK_PUSH(CK_TARGET)
#endif
#endif

#define CK_CAT_(a, b) a##b
#define CK_CAT(a, b) CK_CAT_(a, b)
#define CK_STR_(a) #a
#define CK_STR(a) CK_STR_(a)
#define CK_INLINE static inline __attribute__((always_inline))

/* Vectors of float, double, int32 and int64 that fill one register, and unaligned forms. */
#define VL_F (CK_VBYTES / 4)
#define VL_D (CK_VBYTES / 8)
typedef float vfloat __attribute__((vector_size(CK_VBYTES)));
typedef double vdouble __attribute__((vector_size(CK_VBYTES)));
typedef int32_t vint32 __attribute__((vector_size(CK_VBYTES)));
typedef int64_t vint64 __attribute__((vector_size(CK_VBYTES)));
typedef float vfloat_u __attribute__((vector_size(CK_VBYTES), aligned(4), may_alias));
typedef double vdouble_u __attribute__((vector_size(CK_VBYTES), aligned(8), may_alias));
typedef int32_t vint32_u __attribute__((vector_size(CK_VBYTES), aligned(4), may_alias));
typedef int64_t vint64_u __attribute__((vector_size(CK_VBYTES), aligned(8), may_alias));

CK_INLINE vfloat load_f(const float *p) { return *(const vfloat_u *)p; }
CK_INLINE vdouble load_d(const double *p) { return *(const vdouble_u *)p; }
CK_INLINE void store_f(float *p, vfloat v) { *(vfloat_u *)p = v; }
CK_INLINE void store_d(double *p, vdouble v) { *(vdouble_u *)p = v; }
/* Stores a whole vector past the caches, where p is aligned to it: memory is written without
   being read first. `stream_end` makes such stores visible to others in order. */
#if CK_VBYTES == 64
CK_INLINE void stream_f(float *p, vfloat v) { _mm512_stream_ps(p, (__m512)v); }
#elif CK_VBYTES == 32
CK_INLINE void stream_f(float *p, vfloat v) { _mm256_stream_ps(p, (__m256)v); }
#else
CK_INLINE void stream_f(float *p, vfloat v) { store_f(p, v); }
#endif
CK_INLINE void stream_end(void) {
#if CK_VBYTES >= 32
    _mm_sfence();
#endif
}
CK_INLINE vfloat set_f(float x) { return x - (vfloat){0}; }
CK_INLINE vdouble set_d(double x) { return x - (vdouble){0}; }

/* Loads or stores the first n <= VL lanes; the others read as zero, and nothing beyond the
   n is touched. */
#if CK_VBYTES == 64
#define CK_LANES(n) ((1u << (n)) - 1)
CK_INLINE vfloat load_part_f(const float *p, int n) {
    return (vfloat)_mm512_maskz_loadu_ps((__mmask16)CK_LANES(n), p);
}
CK_INLINE vdouble load_part_d(const double *p, int n) {
    return (vdouble)_mm512_maskz_loadu_pd((__mmask8)CK_LANES(n), p);
}
CK_INLINE void store_part_f(float *p, vfloat v, int n) {
    _mm512_mask_storeu_ps(p, (__mmask16)CK_LANES(n), (__m512)v);
}
CK_INLINE void store_part_d(double *p, vdouble v, int n) {
    _mm512_mask_storeu_pd(p, (__mmask8)CK_LANES(n), (__m512d)v);
}
#elif CK_VBYTES == 32
#define CK_LANES_F(n) ((__m256i)((vint32){0, 1, 2, 3, 4, 5, 6, 7} < (n)))
#define CK_LANES_D(n) ((__m256i)((vint64){0, 1, 2, 3} < (int64_t)(n)))
CK_INLINE vfloat load_part_f(const float *p, int n) {
    return (vfloat)_mm256_maskload_ps(p, CK_LANES_F(n));
}
CK_INLINE vdouble load_part_d(const double *p, int n) {
    return (vdouble)_mm256_maskload_pd(p, CK_LANES_D(n));
}
CK_INLINE void store_part_f(float *p, vfloat v, int n) {
    _mm256_maskstore_ps(p, CK_LANES_F(n), (__m256)v);
}
CK_INLINE void store_part_d(double *p, vdouble v, int n) {
    _mm256_maskstore_pd(p, CK_LANES_D(n), (__m256d)v);
}
#else
#define CK_EACH_LANE(i, lanes, n) \
    _Pragma("GCC unroll 8") for (int i = 0; i < (lanes); i++) if (i < (n))
CK_INLINE vfloat load_part_f(const float *p, int n) {
    vfloat v = {0};
    CK_EACH_LANE(i, VL_F, n) v[i] = p[i];
    return v;
}
CK_INLINE vdouble load_part_d(const double *p, int n) {
    vdouble v = {0};
    CK_EACH_LANE(i, VL_D, n) v[i] = p[i];
    return v;
}
CK_INLINE void store_part_f(float *p, vfloat v, int n) { CK_EACH_LANE(i, VL_F, n) p[i] = v[i]; }
CK_INLINE void store_part_d(double *p, vdouble v, int n) { CK_EACH_LANE(i, VL_D, n) p[i] = v[i]; }
#endif

/* mask ? a : b by lanes, with a comparison's result (all ones or all zeros) as the mask. */
CK_INLINE vfloat select_f(vint32 mask, vfloat a, vfloat b) {
    return (vfloat)((mask & (vint32)a) | (~mask & (vint32)b));
}
CK_INLINE vdouble select_d(vint64 mask, vdouble a, vdouble b) {
    return (vdouble)((mask & (vint64)a) | (~mask & (vint64)b));
}

/* a > b ? a : b and a < b ? a : b by lanes: where either is NaN, b. */
#if CK_VBYTES == 64
CK_INLINE vfloat max_f(vfloat a, vfloat b) { return (vfloat)_mm512_max_ps((__m512)a, (__m512)b); }
CK_INLINE vfloat min_f(vfloat a, vfloat b) { return (vfloat)_mm512_min_ps((__m512)a, (__m512)b); }
#elif CK_VBYTES == 32
CK_INLINE vfloat max_f(vfloat a, vfloat b) { return (vfloat)_mm256_max_ps((__m256)a, (__m256)b); }
CK_INLINE vfloat min_f(vfloat a, vfloat b) { return (vfloat)_mm256_min_ps((__m256)a, (__m256)b); }
#else
CK_INLINE vfloat max_f(vfloat a, vfloat b) { return select_f(a > b, a, b); }
CK_INLINE vfloat min_f(vfloat a, vfloat b) { return select_f(a < b, a, b); }
#endif

/* 1 / v to 14 bits, where v is normal; 0 where that is no normal number. */
#if CK_VBYTES == 64
CK_INLINE vfloat reciprocal_f(vfloat v) { return (vfloat)_mm512_rcp14_ps((__m512)v); }
#endif

/* Lane i becomes lane at[i] of v. Only where one instruction does it. */
#if CK_VBYTES == 64
#define CK_HAVE_PERMUTE 1
CK_INLINE vfloat permute_f(vfloat v, vint32 at) {
    return (vfloat)_mm512_permutexvar_ps((__m512i)at, (__m512)v);
}
#elif CK_VBYTES == 32
#define CK_HAVE_PERMUTE 1
CK_INLINE vfloat permute_f(vfloat v, vint32 at) {
    return (vfloat)_mm256_permutevar8x32_ps((__m256)v, (__m256i)at);
}
#else
#define CK_HAVE_PERMUTE 0
CK_INLINE vfloat permute_f(vfloat v, vint32 at) { return (void)at, v; }
#endif

#include "vmath.h"
