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

/* One window of 32 channels with the taps that it takes, by the rule of pool.body.h: a tap is taken
   where it is larger or NaN. Results go `at` numbers on; a window of padding alone takes tap 0. */
static __attribute__((noinline)) void bf16_any_places(
    const ck_pool_args *p, ptrdiff_t r, ptrdiff_t q, const uint16_t *x, uint16_t *y, void *index,
    ptrdiff_t at, __mmask32 wanted) {
    const ck_axis *h = p->h, *w = p->w;
    const __m512i below = _mm512_set1_epi16(FLOAT_ABS >> 16), zero = _mm512_setzero_si512();
    __m512i value = _mm512_set1_epi16((short)0xff80); /* minus infinity */
    __m512i best = _mm512_set1_epi16(INT16_MIN), tap[2] = {zero, zero};
    for (int32_t i = h->begin[r]; i < h->begin[r + 1]; i++)
        for (int32_t j = w->begin[q]; j < w->begin[q + 1]; j++) {
            const uint16_t *from = x + (h->source[i] * w->sources + w->source[j]) * p->channels;
            const __m512i v = _mm512_maskz_loadu_epi16(wanted, from);
            const __m512i magnitude = _mm512_and_si512(v, below);
            const __m512i mine = _mm512_set1_epi32(h->tap[i] * p->window_w + w->tap[j]);
            /* Denormals are zero, as in floats' kernels. */
            const __mmask32 normal = _mm512_cmpgt_epi16_mask(magnitude,
                                                             _mm512_set1_epi16(BF16_DENORMAL));
            const __mmask32 nan = _mm512_cmpgt_epi16_mask(
                magnitude, _mm512_set1_epi16(FLOAT_INFINITE >> 16));
            __m512i order = _mm512_maskz_mov_epi16(normal, magnitude);
            order = _mm512_mask_sub_epi16(order, _mm512_movepi16_mask(v), zero, order);
            const __mmask32 take = _mm512_cmpgt_epi16_mask(order, best) | nan;
            value = _mm512_mask_mov_epi16(value, take, v);
            best = _mm512_mask_mov_epi16(_mm512_mask_mov_epi16(best, take, order), nan, below);
            tap[0] = _mm512_mask_mov_epi32(tap[0], (__mmask16)take, mine);
            tap[1] = _mm512_mask_mov_epi32(tap[1], (__mmask16)(take >> 16), mine);
        }
    _mm512_mask_storeu_epi16(y + at, wanted, value);
    for (int half = 0; half < 2; half++, wanted >>= 16, at += 16)
        if (p->wide)
            _mm512_mask_storeu_epi32((int32_t *)index + at, (__mmask16)wanted, tap[half]);
        else
            _mm512_mask_cvtepi32_storeu_epi8((uint8_t *)index + at, (__mmask16)wanted, tap[half]);
}

/* The same of positive numbers and taps in bytes; without either, writes nothing and tells so. */
CK_INLINE int bf16_places(const ck_pool_args *p, ptrdiff_t r, ptrdiff_t q, const uint16_t *x,
                          uint16_t *y, void *index, ptrdiff_t at, __mmask32 wanted) {
    const ck_axis *h = p->h, *w = p->w;
    const int32_t row = h->begin[r], rows = h->begin[r + 1];
    const int32_t column = w->begin[q], columns = w->begin[q + 1];
    const __m512i least = _mm512_set1_epi16(BF16_DENORMAL);
    if (p->wide || row == rows || column == columns) return 0;
    const __m512i first = _mm512_maskz_loadu_epi16(
        wanted, x + (h->source[row] * w->sources + w->source[column]) * p->channels);
    __m512i best = _mm512_max_epi16(first, least), bits = first;
    __m512i tap = _mm512_set1_epi16((short)(h->tap[row] * p->window_w + w->tap[column]));
    for (int32_t i = row; i < rows; i++)
        for (int32_t j = column; j < columns; j++) {
            const uint16_t *from = x + (h->source[i] * w->sources + w->source[j]) * p->channels;
            const __m512i v = _mm512_maskz_loadu_epi16(wanted, from);
            tap = _mm512_mask_mov_epi16(
                tap, _mm512_cmpgt_epi16_mask(v, best),
                _mm512_set1_epi16((short)(h->tap[i] * p->window_w + w->tap[j])));
            best = _mm512_max_epi16(best, v);
            bits = _mm512_or_si512(bits, v);
        }
    if (_mm512_movepi16_mask(bits)
        | _mm512_cmpgt_epi16_mask(best, _mm512_set1_epi16(FLOAT_INFINITE >> 16)))
        return 0;
    best = _mm512_mask_mov_epi16(first, _mm512_cmpgt_epi16_mask(best, least), best);
    _mm512_mask_storeu_epi16(y + at, wanted, best);
    _mm512_mask_cvtepi16_storeu_epi8((uint8_t *)index + at, wanted, tap);
    return 1;
}

static void bf16_max_pool(const ck_pool_args *p, const void *x, void *y, void *index,
                          ptrdiff_t row0, ptrdiff_t row1) {
    const ptrdiff_t n = p->channels, width = p->w->targets;
    for (ptrdiff_t r = row0; r < row1; r++)
        for (ptrdiff_t q = 0; q < width; q++)
            for (ptrdiff_t c = 0; c < n; c += 32) {
                const __mmask32 wanted = n - c >= 32 ? 0xffffffffu : (1u << (n - c)) - 1;
                const ptrdiff_t at = (r * width + q) * n + c;
                const uint16_t *from = (const uint16_t *)x + c;
                if (!index)
                    _mm512_mask_storeu_epi16((uint16_t *)y + at, wanted,
                                             bf16_window(p->h, p->w, r, q, from, n, wanted));
                else if (!bf16_places(p, r, q, from, y, index, at, wanted))
                    bf16_any_places(p, r, q, from, y, index, at, wanted);
            }
}

/* Which of 32 channels took a tap, of those wanted. */
CK_INLINE __mmask32 bf16_took(const ck_pool_args *p, const void *index, ptrdiff_t at, int32_t tap,
                              __mmask32 wanted) {
    if (!p->wide)
        return _mm256_mask_cmpeq_epi8_mask(
            wanted, _mm256_maskz_loadu_epi8(wanted, (const uint8_t *)index + at),
            _mm256_set1_epi8((char)tap));
    const __m512i mine = _mm512_set1_epi32(tap);
    const int32_t *from = (const int32_t *)index + at;
    const __mmask16 first = (__mmask16)wanted, second = (__mmask16)(wanted >> 16);
    return _mm512_mask_cmpeq_epi32_mask(first, _mm512_maskz_loadu_epi32(first, from), mine)
        | (__mmask32)_mm512_mask_cmpeq_epi32_mask(
              second, _mm512_maskz_loadu_epi32(second, from + 16), mine) << 16;
}

/* The gradient of the input: sums in float32, in the order of pool.body.h, rounded once. */
static void bf16_max_back(const ck_pool_args *p, const void *gy, const void *index, void *gx,
                          ptrdiff_t row0, ptrdiff_t row1) {
    const ck_axis *h = p->h, *w = p->w;
    const ptrdiff_t n = p->channels;
    const __m512i second = _mm512_set1_epi32((int)0xffff0000);
    uint16_t *to = (uint16_t *)gx + row0 * w->targets * n;
    for (ptrdiff_t r = row0; r < row1; r++)
        for (ptrdiff_t q = 0; q < w->targets; q++, to += n)
            for (ptrdiff_t c = 0; c < n; c += 32) {
                const __mmask32 wanted = n - c >= 32 ? 0xffffffffu : (1u << (n - c)) - 1;
                /* Of channels at even and at odd places. */
                __m512 even = _mm512_setzero_ps(), odd = even;
                for (int32_t i = h->begin[r]; i < h->begin[r + 1]; i++)
                    for (int32_t j = w->begin[q]; j < w->begin[q + 1]; j++) {
                        const ptrdiff_t at = (h->source[i] * w->sources + w->source[j]) * n + c;
                        const __mmask32 mine = bf16_took(
                            p, index, at, h->tap[i] * p->window_w + w->tap[j], wanted);
                        const __m512i g = _mm512_maskz_loadu_epi16(mine,
                                                                   (const uint16_t *)gy + at);
                        even += _mm512_castsi512_ps(_mm512_slli_epi32(g, 16));
                        odd += _mm512_castsi512_ps(_mm512_and_si512(g, second));
                    }
                _mm512_mask_storeu_epi16(to + c, wanted,
                                         bf16_interleave(bf16_rounded_pair(even, odd)));
            }
}

#endif
