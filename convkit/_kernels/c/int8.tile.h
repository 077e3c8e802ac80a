/* Register tiles of int32 sums, for any instruction that multiplies groups of small integers
   and adds the group's sum to 32-bit lanes.

   The including file defines INT8_DOT(sum, a, b), the groups' size INT8_GROUP (2 or 4 values in
   32 bits) and INT8_ROWS(X, nv), which lists the row counts from 1 to INT8_MOST_ROWS. */
#include "int8.finish.h"

/* Tiles of so many rows and more are finished from their registers. */
enum { INT8_COLUMNS = 2 * VL_F, INT8_HALF = INT8_MOST_ROWS / 2, INT8_LEAST_WHOLE = 7 };

#define INT8_UNROLL _Pragma("GCC unroll 16")
#define INT8_AHEAD 1024

CK_INLINE vint32 int8_word(const char *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return word - (vint32){0};
}

/* Every third row has a pointer of its own; `run` rows on, A jumps and they begin anew. */
#define INT8_POINTER(m, run) ((m) / (run) * (((run) + 2) / 3) + (m) % (run) / 3)

CK_INLINE void int8_tile(const ck_int8_args *g, int mr, int nv, int run) {
    vint32 acc[INT8_MOST_ROWS][2];
    int32_t sums[INT8_MOST_ROWS * INT8_COLUMNS] __attribute__((aligned(64)));
    const char *b = g->b, *fetch = g->fetch, *p[6];
    const ptrdiff_t lda = g->lda;
    INT8_UNROLL for (int m = 0; m < mr; m++)
        INT8_UNROLL for (int j = 0; j < nv; j++)
            acc[m][j] = *(const vint32_u *)(g->finish.offset + j * VL_F);
    for (ptrdiff_t i = 0; i < g->batch; i++) {
        INT8_UNROLL for (int m = 0; m < mr; m++) {
            if (m % run % 3) continue;
            const char **const at = p + INT8_POINTER(m, run);
            *at = g->a + g->a_offsets[i] + m / run * g->jump + m % run * lda;
            __asm__("" : "+r"(*at));
        }
        for (ptrdiff_t k = 0; k < g->k; k += INT8_GROUP) {
            vint32 bv[2];
            INT8_UNROLL for (int j = 0; j < nv; j++) {
                bv[j] = *(const vint32_u *)(b + j * CK_VBYTES);
                __builtin_prefetch(b + j * CK_VBYTES + INT8_AHEAD, 0, 3);
            }
            __builtin_prefetch(fetch, 0, 2);
            fetch += g->fetch_step;
            INT8_UNROLL for (int m = 0; m < mr; m++) {
                const vint32 av = int8_word(p[INT8_POINTER(m, run)] + m % run % 3 * lda);
                INT8_UNROLL for (int j = 0; j < nv; j++)
                    acc[m][j] = INT8_DOT(acc[m][j], av, bv[j]);
            }
            INT8_UNROLL for (int q = 0; q <= INT8_POINTER(mr - 1, run); q++) p[q] += 4;
            b += nv * CK_VBYTES;
        }
    }
#if CK_VBYTES == 64 && INT8_GROUP == 4
    const ck_int8_finish *f = &g->finish;
    if (nv == 2 && mr >= INT8_LEAST_WHOLE && g->n == INT8_COLUMNS && f->result == CK_INT8_BYTES
        && f->residual != CK_INT8_FLOAT && f->alpha == 1.0f) {
        if (!f->residual)
            int8_finish_whole(g, acc, mr, CK_INT8_NONE, 0);
        else if (f->between == 0.0f)
            int8_finish_whole(g, acc, mr, CK_INT8_BYTES, 0);
        else
            int8_finish_whole(g, acc, mr, CK_INT8_BYTES, 1);
        return;
    }
#endif
    INT8_UNROLL for (int m = 0; m < mr; m++)
        INT8_UNROLL for (int j = 0; j < nv; j++)
            *(vint32_u *)(sums + (m * nv + j) * VL_F) = acc[m][j];
    int8_finish(g, sums, nv);
}

#define INT8_DEFINE(mr, nv) \
    static void int8_tile_##mr##x##nv(const ck_int8_args *g) { int8_tile(g, mr, nv, mr); }
#define INT8_ENTRY(mr, nv) int8_tile_##mr##x##nv,
INT8_ROWS(INT8_DEFINE, 1)
INT8_ROWS(INT8_DEFINE, 2)

static void int8_run(const ck_int8_args *g) {
    static void (*const tiles[2][INT8_MOST_ROWS])(const ck_int8_args *) = {
        {INT8_ROWS(INT8_ENTRY, 1)}, {INT8_ROWS(INT8_ENTRY, 2)}};
    if (!g->jump)
        tiles[g->n > VL_F][g->rows - 1](g);
    else if (g->n > VL_F)
        int8_tile(g, INT8_MOST_ROWS, 2, INT8_HALF);
    else
        int8_tile(g, INT8_MOST_ROWS, 1, INT8_HALF);
}

/* -- depthwise ---------------------------------------------------------------------------- */

CK_INLINE void int8_columns(const ck_int8_args *g, int first, int mr, int nv, int32_t *sums) {
    vint32 acc[4][2];
    const char *b = g->b;
    INT8_UNROLL for (int m = 0; m < mr; m++)
        INT8_UNROLL for (int j = 0; j < nv; j++)
            acc[m][j] = *(const vint32_u *)(g->finish.offset + j * VL_F);
    for (ptrdiff_t i = 0; i < g->batch; i++, b += nv * CK_VBYTES) {
        const char *a = g->a + g->a_offsets[i] + first * g->lda;
        INT8_UNROLL for (int m = 0; m < mr; m++) {
            INT8_UNROLL for (int j = 0; j < nv; j++) {
                const vint32 av = *(const vint32_u *)(a + m * g->lda + j * CK_VBYTES);
                acc[m][j] = INT8_DOT(acc[m][j], av, *(const vint32_u *)(b + j * CK_VBYTES));
            }
        }
    }
    INT8_UNROLL for (int m = 0; m < mr; m++)
        INT8_UNROLL for (int j = 0; j < nv; j++)
            *(vint32_u *)(sums + ((first + m) * nv + j) * VL_F) = acc[m][j];
}

CK_INLINE void int8_depth_tile(const ck_int8_args *g, int nv) {
    int32_t sums[INT8_MOST_ROWS * INT8_COLUMNS] __attribute__((aligned(64)));
    int m = 0;
    for (; m + 4 <= g->rows; m += 4) int8_columns(g, m, 4, nv, sums);
    for (; m < g->rows; m++) int8_columns(g, m, 1, nv, sums);
    int8_finish(g, sums, nv);
}

static void int8_depthwise(const ck_int8_args *g) {
    if (g->n > VL_F)
        int8_depth_tile(g, 2);
    else
        int8_depth_tile(g, 1);
}

static void int8_join(const uint8_t *const *rows, ptrdiff_t n, void *out) {
    enum { bits = 32 / INT8_GROUP };
    ptrdiff_t i = 0;
    for (; i + VL_F <= n; i += VL_F) {
        vint32 joined = int8_load((const char *)rows[0] + i, VL_F);
        INT8_UNROLL for (int r = 1; r < INT8_GROUP; r++)
            joined |= int8_load((const char *)rows[r] + i, VL_F) << (bits * r);
        *(vint32_u *)((char *)out + 4 * i) = joined;
    }
    for (; i < n; i++) {
        uint32_t joined = rows[0][i];
        for (int r = 1; r < INT8_GROUP; r++) joined |= (uint32_t)rows[r][i] << (bits * r);
        memcpy((char *)out + 4 * i, &joined, 4);
    }
}
