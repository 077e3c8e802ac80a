/* What all batch-reduce GEMMs of 16-bit numbers share, for units with AVX-512. */
#ifndef CK_TILE_COMMON_H
#define CK_TILE_COMMON_H

/* Adds what comes after the sums of 16 columns from `column` on, and writes those wanted. */
CK_INLINE void tile_put(const ck_tile_args *g, ptrdiff_t at, int column, vfloat v) {
    const int left = g->n - column < 16 ? g->n - column : 16;
    if (g->bias) v += load_part_f(g->bias + column, left);
    if (g->residual) v += load_part_f((const float *)g->residual + at + column, left);
    if (g->activation)
        v = activate_f(g->activation, set_f(g->alpha), set_f(g->beta), v);
    store_part_f((float *)g->c + at + column, v, left);
}

/* A row's two 16-bit numbers of k and k + 1, those of `mask`, 16 times. */
CK_INLINE __m512i tile_row_pair(const char *a, uint32_t mask) {
    uint32_t pair;
    memcpy(&pair, a, 4);
    return _mm512_set1_epi32((int)(pair & mask));
}

/* Two rows of 16 weights, of k and k + 1, as 16 pairs. */
CK_INLINE void tile_pairs(const float *rows, float *pairs) {
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    const __m512 even = _mm512_loadu_ps(rows), odd = _mm512_loadu_ps(rows + 16);
    _mm512_storeu_ps(pairs, _mm512_permutex2var_ps(even, first, odd));
    _mm512_storeu_ps(pairs + 16, _mm512_permutex2var_ps(even, second, odd));
}

#endif
