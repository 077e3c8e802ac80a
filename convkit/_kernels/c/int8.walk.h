/* Depthwise convolution of bytes for instructions that multiply groups of four.

   Bytes of four rows are interleaved in registers, so that every 32-bit lane holds the values of
   a channel in four rows of the window, and a column of it is one instruction. Interleaving goes
   by lanes of 16 bytes, as packing does: what packing makes of four vectors of sums is in order
   again. A tile is four neighbouring pixels, and every column is interleaved once for them.

   A vector holds 64 channels of one pixel, or what are left of them (32 or 16 at most) of two or
   four pixels that lie a tile apart. */

enum { WALK_PIXELS = CK_INT8_WALK_WIDTH, WALK_PARTS = 4 };

/* The bytes at p + apart[i] for every part i. */
CK_INLINE __m512i walk_load(const char *p, const ptrdiff_t *apart, int parts) {
    if (parts == 1) return _mm512_loadu_si512(p);
    if (parts == 2)
        return _mm512_inserti64x4(
            _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p)),
            _mm256_loadu_si256((const __m256i *)(p + apart[1])), 1);
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + apart[1])), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + apart[2])), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + apart[3])), 3);
}

CK_INLINE void walk_sums(const ck_int8_walk *g, ptrdiff_t first, const ptrdiff_t *apart, int parts,
                         vint32 sums[WALK_PIXELS][4]) {
    const ptrdiff_t stride = g->stride, taps = g->taps, pixel = g->pixel;
    const char *b = g->b;
    vint32 acc[WALK_PIXELS][4];
    INT8_UNROLL for (int t = 0; t < WALK_PIXELS; t++)
        INT8_UNROLL for (int j = 0; j < 4; j++)
            acc[t][j] = *(const vint32_u *)(g->finish.offset + j * VL_F);
    for (int part = 0; part < g->joined; part++, b += taps * 4 * CK_VBYTES) {
        const char *const *rows = g->rows + 4 * part;
        ptrdiff_t at = first * pixel;
        for (ptrdiff_t column = 0; column < (WALK_PIXELS - 1) * stride + taps; column++) {
            const __m512i r0 = walk_load(rows[0] + at, apart, parts);
            const __m512i r1 = walk_load(rows[1] + at, apart, parts);
            const __m512i r2 = walk_load(rows[2] + at, apart, parts);
            const __m512i r3 = walk_load(rows[3] + at, apart, parts);
            const __m512i low01 = _mm512_unpacklo_epi8(r0, r1);
            const __m512i low23 = _mm512_unpacklo_epi8(r2, r3);
            const __m512i high01 = _mm512_unpackhi_epi8(r0, r1);
            const __m512i high23 = _mm512_unpackhi_epi8(r2, r3);
            const __m512i joined[4] = {_mm512_unpacklo_epi16(low01, low23),
                                       _mm512_unpackhi_epi16(low01, low23),
                                       _mm512_unpacklo_epi16(high01, high23),
                                       _mm512_unpackhi_epi16(high01, high23)};
            at += pixel;
            INT8_UNROLL for (int t = 0; t < WALK_PIXELS; t++) {
                const size_t tap = (size_t)(column - t * stride);
                if (tap >= (size_t)taps) continue;
                INT8_UNROLL for (int j = 0; j < 4; j++)
                    acc[t][j] = INT8_DOT(acc[t][j], joined[j],
                                         *(const vint32_u *)(b + (4 * tap + j) * CK_VBYTES));
            }
        }
    }
    INT8_UNROLL for (int t = 0; t < WALK_PIXELS; t++)
        INT8_UNROLL for (int j = 0; j < 4; j++) sums[t][j] = acc[t][j];
}

static void walk_finish(const ck_int8_walk *g, const int8_packing *packing,
                        vint32 sums[WALK_PIXELS][4], char *const *c, int parts) {
    const int n = g->n, whole = n * parts == CK_VBYTES;
    const __mmask64 columns = whole ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1;
    const ptrdiff_t ldc = g->ldc;
    const vfloat scale[4] = {load_f(g->finish.scale), load_f(g->finish.scale + VL_F),
                             load_f(g->finish.scale + 2 * VL_F),
                             load_f(g->finish.scale + 3 * VL_F)};
    for (int t = 0; t < WALK_PIXELS && t < g->width; t++) {
        __m512i v[4];
        INT8_UNROLL for (int j = 0; j < 4; j++) {
            vfloat x = __builtin_convertvector(sums[t][j], vfloat) * scale[j];
            INT8_ROUNDED(x);
            v[j] = int8_whole(packing, x, packing->leaky);
        }
        const __m512i bytes = int8_pack(packing, v);
        if (parts == 1)
            int8_store_part(c[0] + t * ldc, bytes, 0, 1, whole, columns);
        else if (parts == 2)
            INT8_UNROLL for (int i = 0; i < 2; i++)
                int8_store_part(c[i] + t * ldc, bytes, 2 * i, 2, whole, columns);
        else
            INT8_UNROLL for (int i = 0; i < 4; i++)
                int8_store_part(c[i] + t * ldc, bytes, i, 4, whole, columns);
    }
}

/* One row of pixels for one block of channels. The last tile ends with the row: it may compute
   pixels of the one before again. */
static void int8_walk(const ck_int8_walk *g) {
    const int8_packing packing = int8_packing_of(&g->finish);
    const int parts = g->n > CK_VBYTES / 2 ? 1 : g->n > CK_VBYTES / 4 ? 2 : 4;
    const ptrdiff_t last = g->width > WALK_PIXELS ? g->width - WALK_PIXELS : 0;
    vint32 sums[WALK_PIXELS][4];
    for (ptrdiff_t first = 0; first < g->width; first += parts * WALK_PIXELS) {
        ptrdiff_t apart[WALK_PARTS], begin = first < last ? first : last;
        char *c[WALK_PARTS];
        for (int i = 0; i < parts; i++) {
            const ptrdiff_t at = first + i * WALK_PIXELS, start = at < last ? at : last;
            apart[i] = (start - begin) * g->stride * g->pixel;
            c[i] = g->c + start * g->ldc;
        }
        if (parts == 1)
            walk_sums(g, begin * g->stride, apart, 1, sums);
        else if (parts == 2)
            walk_sums(g, begin * g->stride, apart, 2, sums);
        else
            walk_sums(g, begin * g->stride, apart, 4, sums);
        walk_finish(g, &packing, sums, c, parts);
    }
}
