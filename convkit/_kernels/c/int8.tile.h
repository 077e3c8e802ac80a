/* One register tile of int32 sums, for any instruction that multiplies groups of small
   integers and adds the group's sum to 32-bit lanes.

   The including file defines INT8_DOT(sum, a, b), the groups' type INT8_GROUP (2 or 4 values
   in 32 bits) and INT8_ROWS, the rows of a full tile. A second, short tile of four rows serves
   few rows; rows beyond those asked for are computed from what lies there and dropped. */
enum { INT8_SHORT = 4, INT8_COLUMNS = 2 * VL_F };

CK_INLINE void int8_store(const ck_int8_args *g, int m, int n, vint32 v) {
    const int left = g->n - n < VL_F ? g->n - n : VL_F;
    if (left <= 0) return;
    /* Moves of bits: the float forms of partial loads and stores serve integers as well. */
    if (g->offset) v += (vint32)load_part_f((const float *)(g->offset + n), left);
    store_part_f((float *)(g->c + m * g->ldc + n), (vfloat)v, left);
}

#define INT8_UNROLL _Pragma("GCC unroll 16")

CK_INLINE void int8_tile(const ck_int8_args *g, int mr, int group) {
    vint32 acc[INT8_ROWS][2];
    INT8_UNROLL for (int m = 0; m < mr; m++) acc[m][0] = acc[m][1] = (vint32){0};
    const char *a = g->a, *b = g->b;
    const ptrdiff_t lda = g->lda;
    for (ptrdiff_t k = 0; k < g->k; k += group, a += 4, b += 2 * CK_VBYTES) {
        const vint32 b0 = *(const vint32_u *)b, b1 = *(const vint32_u *)(b + CK_VBYTES);
        INT8_UNROLL for (int m = 0; m < mr; m++) {
            int32_t word;
            memcpy(&word, a + m * lda, 4);
            const vint32 av = word - (vint32){0};
            acc[m][0] = INT8_DOT(acc[m][0], av, b0);
            acc[m][1] = INT8_DOT(acc[m][1], av, b1);
        }
    }
    INT8_UNROLL for (int m = 0; m < mr; m++) {
        if (m >= g->rows) break;
        int8_store(g, m, 0, acc[m][0]);
        int8_store(g, m, VL_F, acc[m][1]);
    }
}

static void int8_run(const ck_int8_args *g) {
    if (g->rows > INT8_SHORT)
        int8_tile(g, INT8_ROWS, INT8_GROUP);
    else
        int8_tile(g, INT8_SHORT, INT8_GROUP);
}
