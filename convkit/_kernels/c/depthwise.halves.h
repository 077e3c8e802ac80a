/* Depthwise convolution of bfloat16: the walks of depthwise.walk.h along pairs of vectors, for units
   with AVX-512 and AVX512-BF16. A line of 32 channels is loaded for both vectors of a pair; the even
   channels are its low halves, the odd ones its high halves, at one instruction each. Numbers that
   round to infinity, and NaN: see bfloat16.h. */
#include "bfloat16.h"

#define DW_HALVES
enum { DW_TOGETHER = 2 };
typedef uint16_t dw_number;

CK_INLINE vfloat dw_load(const dw_number *x, int k) {
    const __m512i line = _mm512_loadu_si512(x);
    return k ? (vfloat)_mm512_and_si512(line, _mm512_set1_epi32((int)0xffff0000))
             : (vfloat)_mm512_slli_epi32(line, 16);
}

/* Even (k is 0) or odd ones of 32 floats. */
CK_INLINE vfloat dw_load_floats(const float *p, int k) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return (vfloat)_mm512_permutex2var_ps(_mm512_loadu_ps(p), _mm512_or_si512(even, _mm512_set1_epi32(k)),
                                          _mm512_loadu_ps(p + 16));
}

CK_INLINE void *dw_output(const ck_depthwise_band *g, ptrdiff_t at) { return (uint16_t *)g->y + at; }

CK_INLINE void dw_put(const ck_depthwise_band *g, ptrdiff_t at, const vfloat *v) {
    const __m512i line = bf16_interleave(bf16_rounded_pair((__m512)v[0], (__m512)v[1]));
    if (g->stream)
        _mm512_stream_si512(dw_output(g, at), line);
    else
        _mm512_storeu_si512(dw_output(g, at), line);
}

#include "depthwise.walk.h"
#include "depthwise.sums.h"

#define DW_HALF_FORMS(X) X(3, 1, 1) X(3, 2, 1) X(5, 1, 1) X(5, 2, 1) X(3, 1, 2) X(5, 1, 2)
#define DW_HALF_SUM_FORMS(X) X(3, 1, 3) X(3, 2, 3)

DW_HALF_FORMS(DW_DEFINE)
static ck_depthwise_band_fn dw_half_band(ptrdiff_t taps, ptrdiff_t stride, ptrdiff_t up) {
    DW_HALF_FORMS(DW_CHOOSE)
    return NULL;
}

DW_HALF_SUM_FORMS(DW_DEFINE_SUMS)
static ck_depthwise_block_fn dw_half_block(ptrdiff_t taps, ptrdiff_t stride) {
    DW_HALF_SUM_FORMS(DW_CHOOSE_SUMS)
    return NULL;
}

static void dw_half_total(const void *sums, ptrdiff_t blocks, ptrdiff_t step, ptrdiff_t channels,
                          void *out) {
    for (ptrdiff_t v = 0; v < channels; v += DW_LINE) {
        const float *p = (const float *)sums + v;
        vfloat even = {0}, odd = {0};
        for (ptrdiff_t b = 0; b < blocks; b++, p += step) {
            even += load_f(p);
            odd += load_f(p + VL_F);
        }
        float *to = (float *)out + DW_VECTOR_START(v, DW_LINE, channels);
        for (int i = 0; i < VL_F; i++) {
            to[2 * i] = even[i];
            to[2 * i + 1] = odd[i];
        }
    }
}
