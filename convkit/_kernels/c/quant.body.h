/* Quantised arrays: see quant.h. Bits are the same on every instruction set. */

typedef uint8_t vbytes_full __attribute__((vector_size(CK_VBYTES)));

static void quant_convert(const ck_quant_args *g, const char *a, const char *b, char *y,
                          ptrdiff_t n) {
    const ck_int8_finish form = g->finish, *const f = &form;
    const int b_size = f->residual == CK_INT8_FLOAT ? 4 : 1;
    const int y_size = f->result == CK_INT8_FLOAT ? 4 : 1;
    for (ptrdiff_t i = 0; i < n; i += VL_F) {
        const int left = n - i < VL_F ? (int)(n - i) : VL_F;
        vfloat v;
        if (g->number == CK_INT8_FLOAT)
            v = load_part_f((const float *)a + i, left);
        else
            v = __builtin_convertvector((int8_load(a + i, left) ^ g->flip) - g->zero, vfloat);
        v = g->divide ? v / g->scale : v * g->scale;
        /* NaN becomes the byte 0. */
        if (g->divide) v = select_f(v == v, v, set_f((float)-f->zero));
        INT8_ROUNDED(v);
        if (f->residual) v = int8_with_residual(f, v, f->residual, b + b_size * i, left);
        int8_end(f, f->result, v, y + y_size * i, left);
    }
}

static void quant_look_up(const uint8_t *table, const uint8_t *x, uint8_t *y, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) y[i] = table[x[i]];
}

CK_INLINE vbytes_full quant_max_of(vbytes_full a, vbytes_full b) {
#if CK_VBYTES == 64
    return (vbytes_full)_mm512_max_epu8((__m512i)a, (__m512i)b);
#elif CK_VBYTES == 32
    return (vbytes_full)_mm256_max_epu8((__m256i)a, (__m256i)b);
#else
    const vbytes_full more = b > a;
    return (more & b) | (~more & a);
#endif
}

CK_INLINE vbytes_full quant_load(const uint8_t *x, ptrdiff_t left) {
    vbytes_full v = {0};
    if (left >= CK_VBYTES)
        memcpy(&v, x, CK_VBYTES);
    else
        memcpy(&v, x, (size_t)left);
    return v;
}

/* Bytes of a row, at most, that is pooled along columns first and then along itself. */
enum { QUANT_LINE = 1 << 14 };

/* The largest bytes of one row's windows; rows of x lie `width` bytes apart. */
static void quant_max_row(const ck_quant_pool *g, const uint8_t *x, uint8_t *y, ptrdiff_t row,
                          ptrdiff_t width) {
    const ptrdiff_t channels = g->channels, size = g->w->sources * channels;
    const ptrdiff_t targets = g->w->targets;
    const vbytes_full flip = (uint8_t)g->flip - (vbytes_full){0};
    uint8_t line[QUANT_LINE + CK_VBYTES], out[QUANT_LINE + CK_VBYTES];
    for (ptrdiff_t k = 0; k < size; k += CK_VBYTES) {
        vbytes_full most = {0};
        for (ptrdiff_t i = g->h->begin[row]; i < g->h->begin[row + 1]; i++)
            most = quant_max_of(
                most, quant_load(x + g->h->source[i] * width + k, size - k) ^ flip);
        memcpy(line + k, &most, CK_VBYTES);
    }
    /* What is stored beyond a pixel's channels is overwritten by the next pixel. */
    for (ptrdiff_t q = 0; q < targets; q++) {
        for (ptrdiff_t c = 0; c < channels; c += CK_VBYTES) {
            vbytes_full most = {0};
            for (ptrdiff_t j = g->w->begin[q]; j < g->w->begin[q + 1]; j++)
                most = quant_max_of(
                    most, quant_load(line + g->w->source[j] * channels + c, CK_VBYTES));
            most ^= flip;
            memcpy(out + q * channels + c, &most, CK_VBYTES);
        }
    }
    memcpy(y + row * targets * channels, out, (size_t)(targets * channels));
}

/* A window without taps gives the least value. */
static void quant_max_pool(const ck_quant_pool *g, const uint8_t *x, uint8_t *y, ptrdiff_t row0,
                           ptrdiff_t row1) {
    const ptrdiff_t channels = g->channels, width = g->w->sources;
    const vbytes_full flip = (uint8_t)g->flip - (vbytes_full){0};
    if (width * channels <= QUANT_LINE && g->w->targets * channels <= QUANT_LINE) {
        for (ptrdiff_t row = row0; row < row1; row++) quant_max_row(g, x, y, row, width * channels);
        return;
    }
    for (ptrdiff_t row = row0; row < row1; row++) {
        for (ptrdiff_t q = 0; q < g->w->targets; q++) {
            uint8_t *target = y + (row * g->w->targets + q) * channels;
            for (ptrdiff_t c = 0; c < channels; c += CK_VBYTES) {
                const ptrdiff_t count = channels - c < CK_VBYTES ? channels - c : CK_VBYTES;
                vbytes_full most = {0};
                for (ptrdiff_t i = g->h->begin[row]; i < g->h->begin[row + 1]; i++) {
                    const uint8_t *line = x + g->h->source[i] * width * channels + c;
                    for (ptrdiff_t j = g->w->begin[q]; j < g->w->begin[q + 1]; j++)
                        most = quant_max_of(
                            most, quant_load(line + g->w->source[j] * channels, count) ^ flip);
                }
                most ^= flip;
                memcpy(target + c, &most, (size_t)count);
            }
        }
    }
}

static void quant_mean_pool(const ck_quant_pool *g, const uint8_t *x, char *y, ptrdiff_t row0,
                            ptrdiff_t row1) {
    const ck_int8_finish *f = &g->finish;
    const ptrdiff_t channels = g->channels, width = g->w->sources;
    const int size = f->result == CK_INT8_FLOAT ? 4 : 1;
    for (ptrdiff_t row = row0; row < row1; row++) {
        for (ptrdiff_t q = 0; q < g->w->targets; q++) {
            const ptrdiff_t taps = (g->h->begin[row + 1] - g->h->begin[row])
                                   * (g->w->begin[q + 1] - g->w->begin[q]);
            const int32_t base = (int32_t)(taps * g->zero);
            const float factor = g->h_part[row] * g->w_part[q];
            char *target = y + (row * g->w->targets + q) * channels * size;
            for (ptrdiff_t c = 0; c < channels; c += VL_F) {
                const int left = channels - c < VL_F ? (int)(channels - c) : VL_F;
                vint32 sum = {0};
                for (ptrdiff_t i = g->h->begin[row]; i < g->h->begin[row + 1]; i++) {
                    const uint8_t *line = x + g->h->source[i] * width * channels + c;
                    for (ptrdiff_t j = g->w->begin[q]; j < g->w->begin[q + 1]; j++)
                        sum += int8_load((const char *)line + g->w->source[j] * channels, left)
                               ^ g->flip;
                }
                vfloat v = __builtin_convertvector(sum - base, vfloat) * factor;
                int8_end(f, f->result, v, target + c * size, left);
            }
        }
    }
}

static const ck_quant_table quant_table = {
    .convert = quant_convert,
    .look_up = quant_look_up,
    .max_pool = quant_max_pool,
    .mean_pool = quant_mean_pool,
};
