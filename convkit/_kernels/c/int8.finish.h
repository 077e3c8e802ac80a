/* What becomes of a block of int32 sums: scale, residual, activation, rounding (see int8.h). */

/* The first `left` bytes at p as int32 lanes, and back; nothing beyond them is touched. */
#if CK_VBYTES == 64
CK_INLINE vint32 int8_load(const char *p, int left) {
    const __m128i bytes = left >= VL_F ? _mm_loadu_si128((const __m128i *)p)
                                       : _mm_maskz_loadu_epi8((__mmask16)CK_LANES(left), p);
    return (vint32)_mm512_cvtepu8_epi32(bytes);
}
CK_INLINE void int8_store(char *p, vint32 v, int left) {
    const __m128i bytes = _mm512_cvtepi32_epi8((__m512i)v);
    if (left >= VL_F)
        _mm_storeu_si128((__m128i *)p, bytes);
    else
        _mm_mask_storeu_epi8(p, (__mmask16)CK_LANES(left), bytes);
}
#elif CK_VBYTES == 32
CK_INLINE vint32 int8_load(const char *p, int left) {
    int64_t bytes = 0;
    if (left >= VL_F)
        memcpy(&bytes, p, 8);
    else
        memcpy(&bytes, p, (size_t)left);
    return (vint32)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes));
}
CK_INLINE void int8_store(char *p, vint32 v, int left) {
    const __m256i low = _mm256_shuffle_epi8((__m256i)v, _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1)));
    const uint64_t bytes = (uint32_t)_mm256_extract_epi32(low, 0)
                           | (uint64_t)(uint32_t)_mm256_extract_epi32(low, 4) << 32;
    memcpy(p, &bytes, left >= VL_F ? 8 : (size_t)left);
}
#else
CK_INLINE vint32 int8_load(const char *p, int left) {
    vint32 v = {0};
    CK_EACH_LANE(i, VL_F, left) v[i] = (uint8_t)p[i];
    return v;
}
CK_INLINE void int8_store(char *p, vint32 v, int left) {
    CK_EACH_LANE(i, VL_F, left) p[i] = (char)v[i];
}
#endif

/* Keeps a product from being joined with the addition after it: one rounding more or less would
   make a difference between instruction sets. */
#define INT8_ROUNDED(v) __asm__("" : GEMM_IN_REGISTER(v))

/* Floats of at most 2^22 to the nearest integers, halves to even: adding 1.5 * 2^23 leaves the
   integer in the low bits. */
CK_INLINE vint32 int8_round(vfloat v) {
    const vfloat magic = set_f(12582912.0f);
    return (vint32)(v + magic) - (vint32)magic;
}

/* Activates, bounds and stores v (NaN becomes a byte of the lower bound, and stays a float). */
CK_INLINE void int8_end(const ck_int8_finish *f, int result, vfloat v, char *c, int left) {
    const vfloat low = set_f(f->low), high = set_f(f->high);
    if (f->alpha != 1.0f) v = select_f(v < 0, v * f->alpha, v);
    if (result == CK_INT8_BYTES)
        int8_store(c, int8_round(min_f(max_f(v, low), high)) + f->zero, left);
    else
        store_part_f((float *)c, min_f(high, max_f(low, v)), left < VL_F ? left : VL_F);
}

/* v as the byte that comes between a sum and what is added to it. */
CK_INLINE vfloat int8_between(const ck_int8_finish *f, vfloat v) {
    v = min_f(max_f(v, set_f(f->between_low)), set_f(f->between_high));
    v = __builtin_convertvector(int8_round(v), vfloat) * set_f(f->between);
    INT8_ROUNDED(v);
    return v;
}

/* v and what is added to it. */
CK_INLINE vfloat int8_with_residual(const ck_int8_finish *f, vfloat v, int residual,
                                    const char *r, int left) {
    vfloat more = residual == CK_INT8_FLOAT
                      ? load_part_f((const float *)r, left < VL_F ? left : VL_F)
                      : __builtin_convertvector((int8_load(r, left) ^ f->residual_flip)
                                                    - f->residual_zero, vfloat);
    more *= f->residual_scale;
    INT8_ROUNDED(more);
    if (f->between != 0.0f) v = int8_between(f, v);
    return v + more;
}

/* Finishes the sums of one vector of columns in every row. */
CK_INLINE void int8_finish_columns(const ck_int8_args *g, const int32_t *sums, ptrdiff_t step,
                                   int n, int result, int residual, int left) {
    /* Copies: stores of bytes might change what lies behind pointers. */
    const ck_int8_finish form = g->finish, *const f = &form;
    const ptrdiff_t ldc = g->ldc, ld_residual = g->ld_residual;
    const int rows = g->rows;
    const vfloat scale = load_f(f->scale + n);
    const int floats = left < VL_F ? left : VL_F;
    const int each = result == CK_INT8_BYTES ? 1 : 4;
    char *c = g->c + n * each;
    const char *r = g->residual + (residual == CK_INT8_BYTES ? n : 4 * n);
    sums += n;
    for (int m = 0; m < rows; m++, c += ldc, r += ld_residual, sums += step) {
        const vint32 sum = *(const vint32_u *)sums;
        if (result == CK_INT8_INT) { /* A move of bits. */
            store_part_f((float *)c, (vfloat)sum, floats);
            continue;
        }
        vfloat v = __builtin_convertvector(sum, vfloat) * scale;
        INT8_ROUNDED(v);
        if (residual) v = int8_with_residual(f, v, residual, r, left);
        int8_end(f, result, v, c, left);
    }
}

CK_INLINE void int8_finish_all(const ck_int8_args *g, const int32_t *sums, ptrdiff_t step,
                               int result, int residual) {
    int n = 0;
    for (; n + VL_F <= g->n; n += VL_F)
        int8_finish_columns(g, sums, step, n, result, residual, VL_F);
    if (n < g->n) int8_finish_columns(g, sums, step, n, result, residual, g->n - n);
}

#if CK_VBYTES == 64
/* 16 bytes as b ^ flips, less their zero point. */
CK_INLINE vfloat int8_bytes(const char *p, __m128i flips, int whole, __mmask16 columns,
                            __m512i zero) {
    const __m128i bytes = whole ? _mm_loadu_si128((const __m128i *)p)
                                : _mm_maskz_loadu_epi8(columns, p);
    const __m512i words = _mm512_cvtepu8_epi32(_mm_xor_si128(bytes, flips));
    return (vfloat)_mm512_cvtepi32_ps(_mm512_sub_epi32(words, zero));
}

/* What makes bytes of four vectors of values. Bounds hold after rounding as before it, since they
   are whole numbers; packing saturates. Only what lies above int32 must not reach the conversion,
   which would make it negative. */
typedef struct int8_packing {
    __m512i zeros, flips, least, most;
    vfloat high, alpha;
    int leaky;
} int8_packing;

CK_INLINE int8_packing int8_packing_of(const ck_int8_finish *f) {
    const int zero = f->zero + f->result_flip;
    const int8_packing made = {
        _mm512_set1_epi16((short)zero), _mm512_set1_epi8((char)f->result_flip),
        _mm512_set1_epi8((char)((int)f->low + zero)),
        _mm512_set1_epi8((char)((int)f->high + zero)),
        set_f(f->high), set_f(f->alpha), f->alpha != 1.0f};
    return made;
}

CK_INLINE __m512i int8_whole(const int8_packing *p, vfloat v, int leaky) {
    if (leaky) v = select_f(v < 0, v * p->alpha, v);
    return _mm512_cvtps_epi32((__m512)min_f(p->high, v));
}

/* Lane by lane (of 16 bytes): four bytes of each vector. */
CK_INLINE __m512i int8_pack(const int8_packing *p, const __m512i v[4]) {
    __m512i bytes = _mm512_packus_epi16(
        _mm512_adds_epi16(_mm512_packs_epi32(v[0], v[1]), p->zeros),
        _mm512_adds_epi16(_mm512_packs_epi32(v[2], v[3]), p->zeros));
    bytes = _mm512_min_epu8(_mm512_max_epu8(bytes, p->least), p->most);
    return _mm512_xor_si512(bytes, p->flips);
}

/* Stores the first bytes of part i of `parts` of a vector: all of them, where `whole`. */
CK_INLINE void int8_store_part(char *c, __m512i bytes, int i, int parts, int whole,
                               __mmask64 columns) {
    const __m256i half = i >= 2 ? _mm512_extracti64x4_epi64(bytes, 1)
                                : _mm512_castsi512_si256(bytes);
    if (parts == 4) {
        const __m128i part = i % 2 ? _mm256_extracti128_si256(half, 1)
                                   : _mm256_castsi256_si128(half);
        if (whole)
            _mm_storeu_si128((__m128i *)c, part);
        else
            _mm_mask_storeu_epi8(c, (__mmask16)columns, part);
    } else if (parts == 2) {
        if (whole)
            _mm256_storeu_si256((__m256i *)c, half);
        else
            _mm256_mask_storeu_epi8(c, (__mmask32)columns, half);
    } else if (whole) {
        _mm512_storeu_si512(c, bytes);
    } else {
        _mm512_mask_storeu_epi8(c, columns, bytes);
    }
}

/* What finishing takes besides sums, the same for a whole layer. */
typedef struct int8_ending {
    int8_packing packing;
    __m512i order, residual_zero;
    __m128i residual_flips;
    vfloat residual_scale, between, between_low, between_high;
    int rounds;
} int8_ending;

CK_INLINE int8_ending int8_ending_of(const ck_int8_finish *f) {
    const int8_ending made = {
        int8_packing_of(f),
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
        _mm512_set1_epi32(f->residual_zero), _mm_set1_epi8((char)f->residual_flip),
        set_f(f->residual_scale), set_f(f->between), set_f(f->between_low),
        set_f(f->between_high), f->between != 0.0f};
    return made;
}

/* int8_between. */
CK_INLINE vfloat int8_rounded(const int8_ending *e, vfloat v) {
    v = min_f(max_f(v, e->between_low), e->between_high);
    v = (vfloat)_mm512_roundscale_ps((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    v *= e->between;
    INT8_ROUNDED(v);
    return v;
}

/* The bytes of four vectors of sums, which are those of 4 / nv rows of which `columns` count; what
   is added to row i lies at r[i]. `rounds` tells whether sums become bytes before that, and `leaky`
   whether negative values have a factor. */
CK_INLINE __m512i int8_four(const int8_ending *e, const vint32 sums[4], const char *const r[4],
                            const vfloat scale[2], int nv, int residual, int rounds, int leaky,
                            int whole, __mmask64 columns) {
    __m512i v[4];
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        const int j = i % nv;
        vfloat x = __builtin_convertvector(sums[i], vfloat) * scale[j];
        INT8_ROUNDED(x);
        if (residual) {
            const char *from = r[i / nv] + (residual == CK_INT8_FLOAT ? 4 : 1) * j * VL_F;
            const __mmask16 some = (__mmask16)(columns >> j * VL_F);
            vfloat more = residual == CK_INT8_FLOAT
                              ? (vfloat)_mm512_maskz_loadu_ps(some, from)
                              : int8_bytes(from, e->residual_flips, whole, some, e->residual_zero);
            more *= e->residual_scale;
            INT8_ROUNDED(more);
            if (rounds) x = int8_rounded(e, x);
            x += more;
        }
        v[i] = int8_whole(&e->packing, x, leaky);
    }
    return _mm512_permutexvar_epi32(e->order, int8_pack(&e->packing, v));
}

/* Four vectors of sums at a time become bytes, those of 4 / nv rows. */
CK_INLINE void int8_finish_bytes(const ck_int8_args *g, const int32_t *sums, int nv,
                                 int residual) {
    const ck_int8_finish f = g->finish; /* copies: stores of bytes might change the originals */
    const int8_ending ending = int8_ending_of(&f);
    const ptrdiff_t ldc = g->ldc, ld_residual = g->ld_residual;
    const int n = g->n, whole = n == nv * VL_F, rows = 4 / nv;
    const vfloat scale[2] = {load_f(f.scale), load_f(f.scale + (nv - 1) * VL_F)};
    const __mmask64 columns = ((__mmask64)1 << n) - 1;
    char *c = g->c;
    const char *r = g->residual;
    for (int left = g->rows; left > 0; left -= rows, sums += 4 * VL_F) {
        vint32 four[4];
        const char *more[4];
        _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)
            four[i] = *(const vint32_u *)(sums + i * VL_F);
        _Pragma("GCC unroll 4") for (int i = 0; i < rows; i++) {
            more[i] = r;
            /* A last group may have fewer rows: what it repeats is not stored. */
            r += left > i + 1 ? ld_residual : 0;
        }
        const __m512i bytes = int8_four(&ending, four, more, scale, nv, residual, ending.rounds,
                                        ending.packing.leaky, whole, columns);
        _Pragma("GCC unroll 4") for (int i = 0; i < rows; i++, c += ldc) {
            if (left <= i) break;
            int8_store_part(c, bytes, i * nv, rows, whole, columns);
        }
    }
}
#endif

#if CK_VBYTES == 64
/* int8_finish_bytes of whole pairs of vectors, none leaky, from registers. */
CK_INLINE void int8_finish_whole(const ck_int8_args *g, vint32 sums[][2], int rows, int residual,
                                 int rounds) {
    const int8_ending ending = int8_ending_of(&g->finish);
    const ptrdiff_t ldc = g->ldc, ld_residual = g->ld_residual;
    const vfloat scale[2] = {load_f(g->finish.scale), load_f(g->finish.scale + VL_F)};
    char *c = g->c;
    const char *r = g->residual;
    _Pragma("GCC unroll 16") for (int m = 0; m < rows; m += 2) {
        const int n = m + 1 < rows ? m + 1 : m;
        const vint32 four[4] = {sums[m][0], sums[m][1], sums[n][0], sums[n][1]};
        const char *const more[4] = {r, r + (n - m) * ld_residual};
        const __m512i bytes = int8_four(&ending, four, more, scale, 2, residual, rounds, 0, 1, 0);
        int8_store_part(c, bytes, 0, 2, 1, 0);
        if (n > m) int8_store_part(c + ldc, bytes, 2, 2, 1, 0);
        c += 2 * ldc;
        r += 2 * ld_residual;
    }
}
#endif

/* The form of A for instructions that read bytes as they are. */
static void int8_copy(const uint8_t *x, ptrdiff_t n, int flip, void *out) {
    uint8_t *bytes = out;
    if (!flip)
        memcpy(bytes, x, (size_t)n);
    else
        for (ptrdiff_t i = 0; i < n; i++) bytes[i] = (uint8_t)(x[i] ^ flip);
}

/* Finishes the sums of a tile, `nv` vectors to a row. Where vectors are wide, memory behind the last
   row is read up to a whole number of four vectors. */
static __attribute__((noinline)) void int8_finish(const ck_int8_args *g, const int32_t *sums,
                                                  int nv) {
    const ck_int8_finish *f = &g->finish;
#if CK_VBYTES == 64
    if (f->result == CK_INT8_BYTES && nv == 2 && !f->residual)
        int8_finish_bytes(g, sums, 2, CK_INT8_NONE);
    else if (f->result == CK_INT8_BYTES && nv == 2 && f->residual == CK_INT8_BYTES)
        int8_finish_bytes(g, sums, 2, CK_INT8_BYTES);
    else if (f->result == CK_INT8_BYTES && nv == 1)
        int8_finish_bytes(g, sums, 1, f->residual);
#else
    if (f->result == CK_INT8_BYTES && !f->residual)
        int8_finish_all(g, sums, nv * VL_F, CK_INT8_BYTES, CK_INT8_NONE);
#endif
    else
        int8_finish_all(g, sums, nv * VL_F, f->result, f->residual);
}
