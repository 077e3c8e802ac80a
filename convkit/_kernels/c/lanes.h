/* Vectors for runs of channels of any length: a whole register (f, d), 16 bytes (fq, dq)
   and one element (f1, d1), with one set of names, so that one body serves all.

   A run of n >= L elements is walked in steps of L, and its last step is moved back to end
   where the run ends: elements in the overlap are computed twice, alike. */
#ifndef CK_LANES_H
#define CK_LANES_H

#define VL_FQ 4
#define VL_DQ 2

#if CK_VBYTES > 16
typedef float vfloat_q __attribute__((vector_size(16)));
typedef double vdouble_q __attribute__((vector_size(16)));
typedef int32_t vint32_q __attribute__((vector_size(16)));
typedef int64_t vint64_q __attribute__((vector_size(16)));
typedef float vfloat_qu __attribute__((vector_size(16), aligned(4), may_alias));
typedef double vdouble_qu __attribute__((vector_size(16), aligned(8), may_alias));

CK_INLINE vfloat_q load_fq(const float *p) { return *(const vfloat_qu *)p; }
CK_INLINE vdouble_q load_dq(const double *p) { return *(const vdouble_qu *)p; }
CK_INLINE void store_fq(float *p, vfloat_q v) { *(vfloat_qu *)p = v; }
CK_INLINE void store_dq(double *p, vdouble_q v) { *(vdouble_qu *)p = v; }
CK_INLINE vfloat_q set_fq(float x) { return x - (vfloat_q){0}; }
CK_INLINE vdouble_q set_dq(double x) { return x - (vdouble_q){0}; }
CK_INLINE vfloat_q select_fq(vint32_q mask, vfloat_q a, vfloat_q b) {
    return (vfloat_q)((mask & (vint32_q)a) | (~mask & (vint32_q)b));
}
CK_INLINE vdouble_q select_dq(vint64_q mask, vdouble_q a, vdouble_q b) {
    return (vdouble_q)((mask & (vint64_q)a) | (~mask & (vint64_q)b));
}
#endif

CK_INLINE float load_f1(const float *p) { return *p; }
CK_INLINE double load_d1(const double *p) { return *p; }
CK_INLINE void store_f1(float *p, float v) { *p = v; }
CK_INLINE void store_d1(double *p, double v) { *p = v; }
CK_INLINE float set_f1(float x) { return x; }
CK_INLINE double set_d1(double x) { return x; }
CK_INLINE float select_f1(int32_t mask, float a, float b) { return mask ? a : b; }
CK_INLINE double select_d1(int64_t mask, double a, double b) { return mask ? a : b; }

/* Indices ride in integer vectors as wide as the masks; in memory they are bytes or int32.
   Bytes are widened and narrowed by steps of two: GCC has instructions for those, while it
   takes longer steps element by element. */
#define LANES_INDEX_VECTOR(S, M, L)                                                                \
    typedef int32_t words_##S __attribute__((vector_size(4 * L), aligned(4), may_alias));          \
    CK_INLINE M set_index_##S(int32_t k) { return k - (M){0}; }                                    \
    CK_INLINE M select_index_##S(M mask, M a, M b) { return (mask & a) | (~mask & b); }            \
    CK_INLINE M load_word_##S(const int32_t *p) {                                                  \
        return __builtin_convertvector(*(const words_##S *)p, M);                                  \
    }                                                                                              \
    CK_INLINE void store_word_##S(int32_t *p, M k) {                                               \
        *(words_##S *)p = __builtin_convertvector(k, words_##S);                                   \
    }

#define LANES_INDEX_BYTES(S, M, L)                                                                 \
    typedef uint8_t bytes_##S __attribute__((vector_size(L), aligned(1), may_alias));              \
    typedef uint16_t halves_##S __attribute__((vector_size(2 * L)));                               \
    typedef uint32_t wholes_##S __attribute__((vector_size(4 * L)));                               \
    CK_INLINE M load_byte_##S(const uint8_t *p) {                                                  \
        halves_##S half = __builtin_convertvector(*(const bytes_##S *)p, halves_##S);              \
        return __builtin_convertvector(__builtin_convertvector(half, wholes_##S), M);              \
    }                                                                                              \
    CK_INLINE void store_byte_##S(uint8_t *p, M k) {                                               \
        halves_##S half =                                                                          \
            __builtin_convertvector(__builtin_convertvector(k, wholes_##S), halves_##S);           \
        *(bytes_##S *)p = __builtin_convertvector(half, bytes_##S);                                \
    }

#define LANES_INDEX_SCALAR(S, M)                                                                   \
    CK_INLINE M set_index_##S(int32_t k) { return k; }                                             \
    CK_INLINE M select_index_##S(M mask, M a, M b) { return mask ? a : b; }                        \
    CK_INLINE M load_byte_##S(const uint8_t *p) { return *p; }                                     \
    CK_INLINE M load_word_##S(const int32_t *p) { return *p; }                                     \
    CK_INLINE void store_byte_##S(uint8_t *p, M k) { *p = (uint8_t)k; }                            \
    CK_INLINE void store_word_##S(int32_t *p, M k) { *p = (int32_t)k; }

LANES_INDEX_VECTOR(f, vint32, VL_F)
#if CK_VBYTES == 64
/* Which has an instruction for either way. */
CK_INLINE vint32 load_byte_f(const uint8_t *p) {
    return (vint32)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
CK_INLINE void store_byte_f(uint8_t *p, vint32 k) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)k));
}
#else
LANES_INDEX_BYTES(f, vint32, VL_F)
#endif
LANES_INDEX_VECTOR(d, vint64, VL_D)
LANES_INDEX_BYTES(d, vint64, VL_D)
#if CK_VBYTES > 16
LANES_INDEX_VECTOR(fq, vint32_q, VL_FQ)
LANES_INDEX_BYTES(fq, vint32_q, VL_FQ)
LANES_INDEX_VECTOR(dq, vint64_q, VL_DQ)
LANES_INDEX_BYTES(dq, vint64_q, VL_DQ)
#endif
LANES_INDEX_SCALAR(f1, int32_t)
LANES_INDEX_SCALAR(d1, int64_t)

/* X(suffix, element, vector, mask, lanes) for every width of one number type. */
#if CK_VBYTES > 16
#define LANES_EACH_FLOAT(X)                                                                        \
    X(f, float, vfloat, vint32, VL_F)                                                              \
    X(fq, float, vfloat_q, vint32_q, VL_FQ)                                                        \
    X(f1, float, float, int32_t, 1)
#define LANES_EACH_DOUBLE(X)                                                                       \
    X(d, double, vdouble, vint64, VL_D)                                                            \
    X(dq, double, vdouble_q, vint64_q, VL_DQ)                                                      \
    X(d1, double, double, int64_t, 1)
#define LANES_CALL_FLOAT(name, n, ...)                                                             \
    ((n) >= VL_F ? name##_f(__VA_ARGS__)                                                           \
                 : (n) >= VL_FQ ? name##_fq(__VA_ARGS__) : name##_f1(__VA_ARGS__))
#define LANES_CALL_DOUBLE(name, n, ...)                                                            \
    ((n) >= VL_D ? name##_d(__VA_ARGS__)                                                           \
                 : (n) >= VL_DQ ? name##_dq(__VA_ARGS__) : name##_d1(__VA_ARGS__))
#else
#define LANES_EACH_FLOAT(X) X(f, float, vfloat, vint32, VL_F) X(f1, float, float, int32_t, 1)
#define LANES_EACH_DOUBLE(X) X(d, double, vdouble, vint64, VL_D) X(d1, double, double, int64_t, 1)
#define LANES_CALL_FLOAT(name, n, ...)                                                             \
    ((n) >= VL_F ? name##_f(__VA_ARGS__) : name##_f1(__VA_ARGS__))
#define LANES_CALL_DOUBLE(name, n, ...)                                                            \
    ((n) >= VL_D ? name##_d(__VA_ARGS__) : name##_d1(__VA_ARGS__))
#endif

#endif
