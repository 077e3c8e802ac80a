/* Floats as one or two bfloat16, for units with AVX-512 and AVX512-BF16.

   The high half is the nearest bfloat16; the low half the nearest to what remains, so that
   both together miss a float by at most 2^-18 of it. The instruction flushes denormals. A
   finite float that would round to infinity becomes the largest bfloat16 (the low half takes
   what is left); the low half of an infinity or NaN is zero. */
#ifndef CK_BFLOAT16_H
#define CK_BFLOAT16_H

enum { BF16_LARGEST = 0x7f7f, BF16_DENORMAL = 0x7f, FLOAT_ABS = 0x7fffffff,
       FLOAT_INFINITE = 0x7f800000, FLOAT_ROUNDS_TO_INFINITE = 0x7f7f8000 };

/* One value that is infinite, NaN or too large to round. Tells whether it is not finite. */
static int bf16_special(float x, uint16_t *high, uint16_t *low) {
    uint32_t bits, sign;
    memcpy(&bits, &x, 4);
    sign = bits >> 16 & 0x8000;
    bits &= FLOAT_ABS;
    if (bits >= FLOAT_INFINITE) {
        *high = (uint16_t)(sign | bits >> 16 | (bits > FLOAT_INFINITE ? 0x40 : 0));
        if (low) *low = 0;
        return 1;
    }
    *high = (uint16_t)(sign | BF16_LARGEST);
    if (low) {
        uint32_t half = sign << 16 | (uint32_t)BF16_LARGEST << 16;
        float part;
        memcpy(&part, &half, 4);
        part = x - part;
        memcpy(&bits, &part, 4);
        *low = (uint16_t)(bits >> 16); /* cut, so that both halves never sum to infinity */
    }
    return 0;
}

CK_INLINE __m512i bf16_pair(__m512 first, __m512 second) {
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

/* The first and the second 16 bfloat16 in turn. */
CK_INLINE __m512i bf16_interleave(__m512i two) {
    const __m512i order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, two);
}

/* 16 bfloat16 as floats. */
CK_INLINE __m512 bf16_floats(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

/* The first or the second 16 of 32 bfloat16 as floats. */
CK_INLINE __m512 bf16_half_floats(__m512i two, int second) {
    const __m512i order = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7,
                                           7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512i from = _mm512_add_epi16(order, _mm512_set1_epi16(second ? 16 : 0));
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, from, two));
}

/* The low halves of 32 floats with these high ones. */
CK_INLINE __m512i bf16_low_pair(__m512 first, __m512 second, __m512i high) {
    return bf16_pair(_mm512_sub_ps(first, bf16_half_floats(high, 0)),
                     _mm512_sub_ps(second, bf16_half_floats(high, 1)));
}

/* Converts n floats, 32 of which go `apart` values from the 32 before them; `low` is NULL for the
   plain form. */
CK_INLINE int bf16_convert_apart(const float *x, ptrdiff_t n, uint16_t *high, uint16_t *low,
                                 ptrdiff_t apart) {
    const __m512i magnitude = _mm512_set1_epi32(FLOAT_ABS);
    __m512i largest = _mm512_setzero_si512();
    for (ptrdiff_t i = 0, at = 0; i < n; i += 32, at += apart) {
        const __mmask32 wanted = n - i >= 32 ? 0xffffffffu : (1u << (n - i)) - 1;
        const __m512 a = _mm512_maskz_loadu_ps((__mmask16)wanted, x + i);
        const __m512 b = _mm512_maskz_loadu_ps((__mmask16)(wanted >> 16), x + i + 16);
        const __m512i pair = bf16_pair(a, b);
        _mm512_mask_storeu_epi16(high + at, wanted, pair);
        largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(a), magnitude));
        largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(b), magnitude));
        if (low)
            _mm512_mask_storeu_epi16(low + at, wanted, bf16_low_pair(a, b, pair));
    }
    if (_mm512_reduce_max_epu32(largest) < FLOAT_ROUNDS_TO_INFINITE) return 0;
    int infinite = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const ptrdiff_t at = i / 32 * apart + i % 32;
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        if ((bits & FLOAT_ABS) >= FLOAT_ROUNDS_TO_INFINITE)
            infinite |= bf16_special(x[i], high + at, low ? low + at : NULL);
    }
    return infinite;
}

/* The same, side by side. */
CK_INLINE int bf16_convert(const float *x, ptrdiff_t n, uint16_t *high, uint16_t *low) {
    return bf16_convert_apart(x, n, high, low, 32);
}

/* Copies n bfloat16 likewise; tells whether any is infinite or NaN. */
CK_INLINE int bf16_copy(const uint16_t *x, ptrdiff_t n, uint16_t *to, ptrdiff_t apart) {
    const __m512i magnitude = _mm512_set1_epi16(FLOAT_ABS >> 16);
    __m512i largest = _mm512_setzero_si512();
    for (ptrdiff_t i = 0; i < n; i += 32, to += apart) {
        const __mmask32 wanted = n - i >= 32 ? 0xffffffffu : (1u << (n - i)) - 1;
        const __m512i v = _mm512_maskz_loadu_epi16(wanted, x + i);
        _mm512_mask_storeu_epi16(to, wanted, v);
        largest = _mm512_max_epu16(largest, _mm512_and_si512(v, magnitude));
    }
    return _mm512_cmpge_epu16_mask(largest, _mm512_set1_epi16(FLOAT_INFINITE >> 16)) != 0;
}

/* n bfloat16 as floats, with zeros up to a multiple of 16; returns these. */
CK_INLINE const float *bf16_widen(const uint16_t *x, int n, float *to) {
    for (int i = 0; i < n; i += 16) {
        const __mmask16 wanted = n - i >= 16 ? 0xffff : (1u << (n - i)) - 1;
        _mm512_storeu_ps(to + i, bf16_floats(_mm256_maskz_loadu_epi16(wanted, x + i)));
    }
    return to;
}

/* 32 floats as `bf16_convert` rounds them. No call is made: around one, whoever rounds in the middle
   of a loop would hold its vectors in memory. */
CK_INLINE __m512i bf16_rounded_pair(__m512 first, __m512 second) {
    const __m512i pair = bf16_pair(first, second);
    const __m512i magnitude = _mm512_and_si512(pair, _mm512_set1_epi16(FLOAT_ABS >> 16));
    const __mmask32 infinite =
        _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(FLOAT_INFINITE >> 16));
    if (__builtin_expect(infinite != 0, 0)) {
        enum { EITHER = 0x18 }; /* of the two infinities */
        const __mmask32 were = _mm512_fpclass_ps_mask(first, EITHER) |
                               (__mmask32)_mm512_fpclass_ps_mask(second, EITHER) << 16;
        return _mm512_mask_sub_epi16(pair, infinite & ~were, pair, _mm512_set1_epi16(1));
    }
    return pair;
}

#endif
