/* Max pooling of bfloat16, for units with AVX-512: what rounding and then pooling floats gives.

   As signed integers, bits of positive numbers are in the numbers' order; those of negative ones
   are once all bits but the sign are turned. NaN is larger than everything: without its sign. */
#ifndef CK_BFLOAT16_POOL_H
#define CK_BFLOAT16_POOL_H

#include "pool.h"

CK_INLINE __m512i bf16_turned(__m512i v) {
    const __m512i below = _mm512_set1_epi16(FLOAT_ABS >> 16);
    return _mm512_xor_si512(v, _mm512_and_si512(_mm512_srai_epi16(v, 15), below));
}

/* Integers in the order of 32 bfloat16. */
CK_INLINE __m512i bf16_ordered(__m512i v) {
    const __m512i below = _mm512_set1_epi16(FLOAT_ABS >> 16);
    const __m512i magnitude = _mm512_and_si512(v, below);
    const __mmask32 nan = _mm512_cmpgt_epi16_mask(magnitude,
                                                  _mm512_set1_epi16(FLOAT_INFINITE >> 16));
    return _mm512_mask_mov_epi16(bf16_turned(v), nan, magnitude);
}

/* The largest values of 32 channels, those `wanted`, over the taps of a window: of any numbers. */
static __attribute__((noinline)) __m512i bf16_any_window(const ck_axis *h, const ck_axis *w, ptrdiff_t r, ptrdiff_t q,
                              const uint16_t *x, ptrdiff_t n, __mmask32 wanted) {
    __m512i best = bf16_ordered(_mm512_set1_epi16((short)0xff80)); /* minus infinity */
    for (int32_t i = h->begin[r]; i < h->begin[r + 1]; i++)
        for (int32_t j = w->begin[q]; j < w->begin[q + 1]; j++) {
            const uint16_t *from = x + (h->source[i] * w->sources + w->source[j]) * n;
            best = _mm512_max_epi16(best, bf16_ordered(_mm512_maskz_loadu_epi16(wanted, from)));
        }
    return bf16_turned(best);
}

/* The same: of positive numbers, which are in order as they are, until a sign shows. */
CK_INLINE __m512i bf16_window(const ck_axis *h, const ck_axis *w, ptrdiff_t r, ptrdiff_t q,
                              const uint16_t *x, ptrdiff_t n, __mmask32 wanted) {
    const int32_t begin = w->begin[q], end = w->begin[q + 1];
    __m512i best = _mm512_setzero_si512(), bits = best;
    for (int32_t i = h->begin[r]; i < h->begin[r + 1]; i++)
        for (int32_t j = begin; j < end; j++) {
            const uint16_t *from = x + (h->source[i] * w->sources + w->source[j]) * n;
            const __m512i v = _mm512_maskz_loadu_epi16(wanted, from);
            best = _mm512_max_epi16(best, v);
            bits = _mm512_or_si512(bits, v);
        }
    if (begin == end || h->begin[r] == h->begin[r + 1] || _mm512_movepi16_mask(bits))
        return bf16_any_window(h, w, r, q, x, n, wanted);
    return best;
}

static void bf16_max_pool(const ck_pool_args *p, const void *x, void *y, void *index,
                          ptrdiff_t row0, ptrdiff_t row1) {
    const ptrdiff_t n = p->channels, width = p->w->targets;
    uint16_t *to = (uint16_t *)y + row0 * width * n;
    (void)index;
    for (ptrdiff_t r = row0; r < row1; r++)
        for (ptrdiff_t q = 0; q < width; q++, to += n)
            for (ptrdiff_t c = 0; c < n; c += 32) {
                const __mmask32 wanted = n - c >= 32 ? 0xffffffffu : (1u << (n - c)) - 1;
                const __m512i best = bf16_window(p->h, p->w, r, q, (const uint16_t *)x + c, n,
                                                 wanted);
                _mm512_mask_storeu_epi16(to + c, wanted, best);
            }
}

#endif
