/* Byte products on tiles: 2 x 2 accumulators of 16 x 16 int32, at most 64 values of k a step.

   Finishing a block's sums takes as long as five steps of its products. So sums wait in memory while
   the next block is multiplied, and are finished between the steps and after them, a pair of rows
   at a time: tiles and vectors then work at the same time. */

#include "gemm.shapes.h"
#include "int8.finish.h"

enum {
    INT8_BLOCK = 2 * CK_TILE_ROWS, /* positions and columns of a block */
    INT8_NEAR = 8 << 10, /* bytes of pixels that are brought there ahead, at most */
    INT8_AHEAD = 2 * 64 * INT8_BLOCK, /* bytes that B is brought into the first cache ahead */
};

/* The pixels of a block: where the row of their sums begins, and which ones they are. */
typedef struct int8_pixels {
    int count;
    int from[INT8_BLOCK];
    int to[INT8_BLOCK];
} int8_pixels;

/* Sums that wait for what follows. */
typedef struct int8_waiting {
    const int32_t *sums;
    const int8_pixels *pixels;
    int next; /* of the pixels */
    int n;
    char *c;
    const char *residual;
    const float *scale;
} int8_waiting;

/* What each step brings into the first cache, pixels of the next block, and into the second,
   weights of the next panel. */
typedef struct int8_fetch {
    const char *near, *far;
    ptrdiff_t near_step;
} int8_fetch;

/* Finishes two rows of bytes; a last one that is alone counts twice. */
CK_INLINE void int8_pair(const ck_int8_panel *g, const int8_ending *ending, int8_waiting *w,
                         int residual, int whole) {
    const int8_pixels *pixels = w->pixels;
    const int i = w->next, k = i + 1 < pixels->count ? i + 1 : i;
    const ptrdiff_t to = pixels->to[i], then = pixels->to[k];
    const vint32_u *const first = (const vint32_u *)(w->sums + pixels->from[i]);
    const vint32_u *const second = (const vint32_u *)(w->sums + pixels->from[k]);
    const vint32 sums[4] = {first[0], first[1], second[0], second[1]};
    const char *const r[4] = {w->residual + to * g->ld_residual,
                              w->residual + then * g->ld_residual};
    const vfloat scale[2] = {load_f(w->scale), load_f(w->scale + VL_F)};
    const __mmask64 columns = ((__mmask64)1 << w->n) - 1;
    const __m512i bytes =
        int8_four(ending, sums, r, scale, 2, residual, ending->rounds, ending->packing.leaky,
                  whole, columns);
    int8_store_part(w->c + to * g->ldc, bytes, 0, 2, whole, columns);
    int8_store_part(w->c + then * g->ldc, bytes, 2, 2, whole, columns);
    w->next = i + 2;
}

CK_INLINE void int8_pairs(const ck_int8_panel *g, const int8_ending *ending, int8_waiting *w,
                          int residual, int whole, int most) {
    for (int i = 0; i < most && w->next < w->pixels->count; i++)
        int8_pair(g, ending, w, residual, whole);
}

/* Finishes all rows, whatever is made of them. */
static __attribute__((noinline)) void int8_finish_pixels(const ck_int8_panel *g,
                                                         const int8_waiting *w) {
    ck_int8_args row = {.rows = 1, .n = w->n, .finish = g->finish};
    row.finish.scale = w->scale;
    for (int i = 0; i < w->pixels->count; i++) {
        row.c = w->c + w->pixels->to[i] * g->ldc;
        row.residual = w->residual + w->pixels->to[i] * g->ld_residual;
        int8_finish(&row, w->sums + w->pixels->from[i], 2);
    }
}

/* Sums begin with the offsets: a step of 0 reads them into every row. */
#define INT8_BEGIN(tile, i, j) amx_load(tile, offset + 16 * (j), 0)

/* Multiplies one block, and finishes `each` pairs of rows of the one before with each step, where
   `bytes` are made of them: others do not wait. */
CK_INLINE void int8_products(const ck_int8_panel *g, const char *a, ptrdiff_t a_next,
                             const char *b, const int32_t *offset, int32_t *sums,
                             int8_fetch *fetch, int mb, int nb, const int8_ending *ending,
                             int8_waiting *w, int bytes, int residual, int each) {
    const ptrdiff_t lda = g->lda, depth = g->depth;
    TILE_EACH_ACCUMULATOR(INT8_BEGIN);
    for (ptrdiff_t i = 0; i < g->batch; i++) {
        const char *from = a + g->a_offsets[i];
        for (ptrdiff_t s = 0; s < g->steps; s++, from += depth, b += depth * INT8_BLOCK) {
            amx_load(4, from, lda);
            amx_load(6, b, 128);
            amx_u8(0, 4, 6);
            if (nb > 1) amx_load(7, b + 64, 128);
            if (nb > 1) amx_u8(1, 4, 7);
            if (mb > 1) amx_load(5, from + a_next, lda);
            if (mb > 1) amx_u8(2, 5, 6);
            if (mb > 1 && nb > 1) amx_u8(3, 5, 7);
            for (ptrdiff_t line = 0; line < depth * INT8_BLOCK; line += 64)
                __builtin_prefetch(b + INT8_AHEAD + line, 0, 3);
            for (ptrdiff_t line = 0; line < fetch->near_step; line += 64)
                __builtin_prefetch(fetch->near + line, 0, 3);
            for (ptrdiff_t line = 0; line < g->fetch_step; line += 64)
                __builtin_prefetch(fetch->far + line, 0, 2);
            fetch->near += fetch->near_step;
            fetch->far += g->fetch_step;
            if (bytes) int8_pairs(g, ending, w, residual, 1, each);
        }
    }
    TILE_EACH_ACCUMULATOR(TILE_STORE);
    if (bytes) int8_pairs(g, ending, w, residual, 1, INT8_BLOCK);
}

/* Lists the pixels of `count` positions from `first` on, of blocks of `rows` rows. The second of
   two blocks of rows ends with the last position: it may repeat rows of the first. So does one
   that is alone, unless it is the first. */
CK_INLINE void int8_place(const ck_int8_panel *g, ptrdiff_t row, ptrdiff_t first, int count,
                          int rows, int8_pixels *pixels) {
    const vint32 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const ptrdiff_t wide = g->wide, line = first / wide;
    const int end = (int)(wide < INT8_BLOCK ? wide : INT8_BLOCK);
    pixels->count = 0;
    for (int i = 0; i < count; i += 16) {
        const vint32 at = lanes + i;
        const int second = CK_TILE_ROWS - (count - rows), alone = rows - count;
        const vint32 from = count <= rows ? at + alone : at + ((at >= rows) & second);
        vint32 column = at + (int)(first % wide), to = at * 0 + (int)((row + line) * g->width);
        for (int passed = 0; passed <= i + 15; passed += end) {
            const vint32 beyond = column >= (int)wide;
            column -= beyond & (int)wide;
            to += beyond & (int)g->width;
        }
        const __mmask16 wanted = _mm512_mask_cmplt_epi32_mask(
            (__mmask16)CK_LANES(count - i < 16 ? count - i : 16), (__m512i)column,
            _mm512_set1_epi32((int)g->width));
        _mm512_mask_compressstoreu_epi32(pixels->from + pixels->count, wanted,
                                         (__m512i)(from * INT8_BLOCK));
        _mm512_mask_compressstoreu_epi32(pixels->to + pixels->count, wanted,
                                         (__m512i)(to + column));
        pixels->count += __builtin_popcount(wanted);
    }
}

CK_INLINE void int8_panel_of(const ck_int8_panel *panel, int bytes, int residual) {
    const ck_int8_panel form = *panel, *const g = &form; /* stores of bytes change none of it */
    const int8_ending ending = int8_ending_of(&g->finish);
    const int rows = g->positions < CK_TILE_ROWS ? (int)g->positions : CK_TILE_ROWS;
    const int c_item = g->finish.result == CK_INT8_BYTES ? 1 : 4;
    const int residual_item = g->finish.residual == CK_INT8_BYTES ? 1 : 4;
    const int pairs = (int)(INT8_BLOCK / 2 / (g->batch * g->steps + 1));
    int32_t buffers[2][INT8_BLOCK * INT8_BLOCK + 32] __attribute__((aligned(64)));
    int8_pixels places[2];
    int8_waiting waiting = {.pixels = places};
    const ptrdiff_t steps = (g->n + INT8_BLOCK - 1) / INT8_BLOCK * g->batch * g->steps;
    const ptrdiff_t near = INT8_BLOCK * g->lda; /* bytes of a block's pixels */
    int8_fetch fetch = {NULL, g->fetch,
                        near > INT8_NEAR ? 0 : (near + 64 * steps - 1) / (64 * steps) * 64};
    int turn = 0, place = 0;
    places[0].count = 0;
    for (ptrdiff_t row = 0; row < g->rows; row++) {
        for (ptrdiff_t first = 0; first < g->positions; first += INT8_BLOCK) {
            const ptrdiff_t left = g->positions - first;
            const int count = left < INT8_BLOCK ? (int)left : INT8_BLOCK;
            const ptrdiff_t over = count - rows; /* positions of the second block of rows */
            const char *a = g->a + row * g->row_step + (first + (over < 0 ? over : 0)) * g->lda;
            int8_pixels *pixels = places + (place ^= 1);
            int8_place(g, row, first, count, rows, pixels);
            fetch.near = a + g->a_offsets[g->batch - 1] + near;
            for (int column = 0; column < g->n; column += INT8_BLOCK) {
                const int n = g->n - column < INT8_BLOCK ? g->n - column : INT8_BLOCK;
                const char *b = g->b + column / INT8_BLOCK * g->block_bytes;
                int32_t *sums = buffers[turn ^= 1];
#define INT8_PRODUCTS(mb, nb)                                                                  \
    int8_products(g, a, over * g->lda, b, g->finish.offset + column, sums, &fetch, mb, nb,     \
                  &ending, &waiting, bytes, residual, pairs)
                if (over > 0 && n > CK_TILE_COLUMNS)
                    INT8_PRODUCTS(2, 2);
                else if (over > 0)
                    INT8_PRODUCTS(2, 1);
                else if (n > CK_TILE_COLUMNS)
                    INT8_PRODUCTS(1, 2);
                else
                    INT8_PRODUCTS(1, 1);
                waiting = (int8_waiting){
                    sums, pixels, 0, n, g->c + column * c_item,
                    g->residual + column * residual_item, g->finish.scale + column};
                if (!bytes) {
                    int8_finish_pixels(g, &waiting);
                    waiting.next = pixels->count;
                } else if (n < INT8_BLOCK) {
                    int8_pairs(g, &ending, &waiting, residual, 0, INT8_BLOCK);
                }
            }
        }
    }
    if (bytes) int8_pairs(g, &ending, &waiting, residual, 1, INT8_BLOCK);
}

static void int8_panel(const ck_int8_panel *g) {
    const ck_int8_finish *f = &g->finish;
    tile_configure(g->positions < CK_TILE_ROWS ? (int)g->positions : CK_TILE_ROWS,
                   (int)g->depth / 2);
    if (f->result == CK_INT8_BYTES && !f->residual)
        int8_panel_of(g, 1, CK_INT8_NONE);
    else if (f->result == CK_INT8_BYTES && f->residual == CK_INT8_BYTES)
        int8_panel_of(g, 1, CK_INT8_BYTES);
    else
        int8_panel_of(g, 0, CK_INT8_NONE);
    amx_release();
}

const ck_int8_kernels ck_table_amx_int8 = {
    .max_rows = INT8_BLOCK,
    .columns = INT8_BLOCK,
    .group = 4,
    .bytes = 1,
    .multiple = 4,
    .prepare = int8_copy,
    .copy = int8_copy,
    .panel = int8_panel,
};
