#ifndef CK_HALVES_H
#define CK_HALVES_H
/* Vectors of floats kept in memory as bfloat16, the high halves of floats.

   Rounded to the nearest, ties to even. Infinities and NaN stay what they are; a finite float that
   would round to infinity is cut to the largest bfloat16, as in bfloat16.h. A NaN to be rounded is
   quiet, as arithmetic leaves it, so that it is none by its payload's low half alone. */
typedef uint16_t vhalf __attribute__((vector_size(CK_VBYTES / 2)));
typedef uint16_t vhalf_u __attribute__((vector_size(CK_VBYTES / 2), aligned(2), may_alias));
typedef uint32_t vuint32 __attribute__((vector_size(CK_VBYTES)));

#if CK_VBYTES == 64
/* In instructions, as GCC takes twice as many. */
CK_INLINE vfloat widen(vhalf h) {
    return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
}
CK_INLINE vhalf narrow(vfloat v) {
    const __m512i bits = (__m512i)v;
    /* What is to be rounded; the others are cut. */
    const __mmask16 rounds = _mm512_cmplt_epu32_mask(_mm512_slli_epi32(bits, 1),
                                                     _mm512_set1_epi32((int)0xfeff0000));
    const __m512i up = _mm512_mask_add_epi32(bits, rounds, bits, _mm512_set1_epi32(0x8000));
    const __mmask16 ties = _mm512_mask_testn_epi32_mask(rounds, up, _mm512_set1_epi32(0xffff));
    const __m512i even = _mm512_mask_and_epi32(up, ties, up, _mm512_set1_epi32(~0x10000));
    return (vhalf)_mm512_cvtepi32_epi16(_mm512_srli_epi32(even, 16));
}
#else
CK_INLINE vfloat widen(vhalf h) {
    return (vfloat)(__builtin_convertvector(h, vuint32) << 16);
}
CK_INLINE vhalf narrow(vfloat v) {
    const vuint32 bits = (vuint32)v;
    /* What is to be rounded; the others are cut. */
    const vuint32 rounds = (vuint32)(((vint32)v & 0x7fffffff) < 0x7f7f8000);
    const vuint32 rounded = bits + (rounds & (0x7fff + (bits >> 16 & 1)));
    return __builtin_convertvector(rounded >> 16, vhalf);
}
#endif

/* The same for numbers that are bfloat16. */
CK_INLINE vhalf cut(vfloat v) {
#if CK_VBYTES == 64
    return (vhalf)_mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)v, 16));
#else
    return __builtin_convertvector((vuint32)v >> 16, vhalf);
#endif
}

/* The first n lanes, of VL_F or more a whole vector; the others read as zero. */
CK_INLINE vfloat load_some_half(const uint16_t *p, ptrdiff_t n) {
    if (n >= VL_F) return widen(*(const vhalf_u *)p);
#if CK_VBYTES == 64
    return widen((vhalf)_mm256_maskz_loadu_epi16((__mmask16)CK_LANES(n), p));
#endif
    uint16_t part[VL_F] = {0};
    for (ptrdiff_t i = 0; i < n; i++) part[i] = p[i];
    return widen(*(const vhalf_u *)part);
}
CK_INLINE void store_some_half(uint16_t *p, vhalf h, ptrdiff_t n) {
    if (n >= VL_F) *(vhalf_u *)p = h;
#if CK_VBYTES == 64
    else _mm256_mask_storeu_epi16(p, (__mmask16)CK_LANES(n), (__m256i)h);
#else
    else for (ptrdiff_t i = 0; i < n; i++) p[i] = h[i];
#endif
}
#endif
