#ifndef CK_HALVES_H
#define CK_HALVES_H
/* Vectors of floats kept in memory as bfloat16, the high halves of floats.

   Rounded to the nearest, ties to even. Infinities and NaN stay what they are; a finite float that
   would round to infinity is cut to the largest bfloat16, as in bfloat16.h. */
typedef uint16_t vhalf __attribute__((vector_size(CK_VBYTES / 2)));
typedef uint16_t vhalf_u __attribute__((vector_size(CK_VBYTES / 2), aligned(2), may_alias));
typedef uint32_t vuint32 __attribute__((vector_size(CK_VBYTES)));

CK_INLINE vfloat widen(vhalf h) {
    return (vfloat)(__builtin_convertvector(h, vuint32) << 16);
}
CK_INLINE vhalf narrow(vfloat v) {
    const vuint32 bits = (vuint32)v, size = bits & 0x7fffffff;
    /* What is to be rounded; the others are cut. */
    const vuint32 rounds = (vuint32)(size < 0x7f7f8000);
    const vuint32 rounded = bits + (rounds & (0x7fff + (bits >> 16 & 1)));
    /* A NaN whose payload is cut off stays one. */
    const vuint32 nan = (vuint32)(size > 0x7f800000) & 0x40;
    return __builtin_convertvector(rounded >> 16 | nan, vhalf);
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
    else for (ptrdiff_t i = 0; i < n; i++) p[i] = h[i];
}
#endif
