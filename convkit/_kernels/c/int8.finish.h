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

/* Finishes the sums of one vector of columns in every row. */
CK_INLINE void int8_finish_columns(const ck_int8_args *g, const int32_t *sums, ptrdiff_t step,
                                   int n, int result, int residual, int left) {
    /* Copies: stores of bytes might change what lies behind pointers. */
    const ck_int8_finish form = g->finish, *const f = &form;
    const ptrdiff_t ldc = g->ldc, ld_residual = g->ld_residual;
    const int rows = g->rows;
    const vint32 offset = *(const vint32_u *)(f->offset + n);
    const vfloat scale = load_f(f->scale + n);
    const int floats = left < VL_F ? left : VL_F;
    const int each = result == CK_INT8_BYTES ? 1 : 4;
    char *c = g->c + n * each;
    const char *r = g->residual + (residual == CK_INT8_BYTES ? n : 4 * n);
    sums += n;
    for (int m = 0; m < rows; m++, c += ldc, r += ld_residual, sums += step) {
        const vint32 sum = *(const vint32_u *)sums + offset;
        if (result == CK_INT8_INT) { /* A move of bits. */
            store_part_f((float *)c, (vfloat)sum, floats);
            continue;
        }
        vfloat v = __builtin_convertvector(sum, vfloat) * scale;
        INT8_ROUNDED(v);
        if (residual) {
            vfloat more = residual == CK_INT8_FLOAT
                              ? load_part_f((const float *)r, floats)
                              : __builtin_convertvector((int8_load(r, left) ^ f->residual_flip)
                                                            - f->residual_zero, vfloat);
            more *= f->residual_scale;
            INT8_ROUNDED(more);
            v += more;
        }
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

/* The form of A for instructions that read bytes as they are. */
static void int8_copy(const uint8_t *x, ptrdiff_t n, int flip, void *out) {
    uint8_t *bytes = out;
    if (!flip)
        memcpy(bytes, x, (size_t)n);
    else
        for (ptrdiff_t i = 0; i < n; i++) bytes[i] = (uint8_t)(x[i] ^ flip);
}

static __attribute__((noinline)) void int8_finish(const ck_int8_args *g, const int32_t *sums,
                                                  ptrdiff_t step) {
    const ck_int8_finish *f = &g->finish;
    if (f->result == CK_INT8_BYTES && !f->residual)
        int8_finish_all(g, sums, step, CK_INT8_BYTES, CK_INT8_NONE);
    else if (f->result == CK_INT8_BYTES)
        int8_finish_all(g, sums, step, CK_INT8_BYTES, f->residual);
    else
        int8_finish_all(g, sums, step, f->result, f->residual);
}
