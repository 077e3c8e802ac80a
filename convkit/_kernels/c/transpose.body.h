/* A square block of L rows of L elements, transposed in registers: log2(L) rounds, in each of
   which row i and row i + L/2 are merged element by element into rows 2i and 2i + 1. A round
   rotates the bits of (row, lane) by one place, so after log2(L) rounds they are exchanged. */

#define MERGE_LOW_2 0, 2
#define MERGE_HIGH_2 1, 3
#define MERGE_LOW_4 0, 4, 1, 5
#define MERGE_HIGH_4 2, 6, 3, 7
#define MERGE_LOW_8 0, 8, 1, 9, 2, 10, 3, 11
#define MERGE_HIGH_8 4, 12, 5, 13, 6, 14, 7, 15
#define MERGE_LOW_16 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define MERGE_HIGH_16 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#if CK_VBYTES == 64
#define MERGE_F(which) MERGE_##which##_16
#define MERGE_D(which) MERGE_##which##_8
#elif CK_VBYTES == 32
#define MERGE_F(which) MERGE_##which##_8
#define MERGE_D(which) MERGE_##which##_4
#else
#define MERGE_F(which) MERGE_##which##_4
#define MERGE_D(which) MERGE_##which##_2
#endif
#if defined(__clang__)
#define MERGE(a, b, I, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MERGE(a, b, I, ...) __builtin_shuffle(a, b, (I){__VA_ARGS__})
#endif

#define TRANSPOSE_EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

#define TRANSPOSE_ROUNDS(V, I, S, L, LOW, HIGH)                                                    \
    CK_INLINE void transpose_##S(V *v) {                                                           \
        _Pragma("GCC unroll 4") for (int round = 1; round < L; round *= 2) {                       \
            V merged[L];                                                                           \
            TRANSPOSE_EACH(i, L / 2) {                                                             \
                merged[2 * i] = MERGE(v[i], v[i + L / 2], I, LOW);                                 \
                merged[2 * i + 1] = MERGE(v[i], v[i + L / 2], I, HIGH);                            \
            }                                                                                      \
            TRANSPOSE_EACH(i, L) v[i] = merged[i];                                                 \
        }                                                                                          \
    }

#define TRANSPOSE_TEMPLATE(T, V, S, L)                                                             \
    static void to_vectors_##S(const void *source, ptrdiff_t step, int rows, int count,            \
                               void *const *targets) {                                             \
        const T *p = source;                                                                       \
        V v[L];                                                                                    \
        if (rows == L && count == L) {                                                             \
            TRANSPOSE_EACH(i, L) v[i] = load_##S(p + i * step);                                    \
        } else {                                                                                   \
            TRANSPOSE_EACH(i, L) v[i] = i < rows ? load_part_##S(p + i * step, count) : (V){0};    \
        }                                                                                          \
        transpose_##S(v);                                                                          \
        TRANSPOSE_EACH(i, L) if (i < count && targets[i]) store_##S(targets[i], v[i]);             \
    }                                                                                              \
                                                                                                   \
    static void from_vectors_##S(const void *const *sources, ptrdiff_t parts,                      \
                                 ptrdiff_t part_step, int rows, int count, void *target,           \
                                 ptrdiff_t step) {                                                 \
        T *p = target;                                                                             \
        V v[L];                                                                                    \
        TRANSPOSE_EACH(i, L) v[i] = i < count ? load_##S((const T *)sources[i]) : (V){0};          \
        for (ptrdiff_t part = 1; part < parts; part++)                                             \
            TRANSPOSE_EACH(i, L)                                                                   \
                if (i < count) v[i] += load_##S((const T *)sources[i] + part * part_step);         \
        transpose_##S(v);                                                                          \
        if (rows == L && count == L) {                                                             \
            TRANSPOSE_EACH(i, L) store_##S(p + i * step, v[i]);                                    \
        } else {                                                                                   \
            TRANSPOSE_EACH(i, L) if (i < rows) store_part_##S(p + i * step, v[i], count);          \
        }                                                                                          \
    }

TRANSPOSE_ROUNDS(vfloat, vint32, f, VL_F, MERGE_F(LOW), MERGE_F(HIGH))
TRANSPOSE_ROUNDS(vdouble, vint64, d, VL_D, MERGE_D(LOW), MERGE_D(HIGH))
TRANSPOSE_TEMPLATE(float, vfloat, f, VL_F)
TRANSPOSE_TEMPLATE(double, vdouble, d, VL_D)

/* Small elements go by vectors of 16 bytes, whatever the instruction set. */
typedef int8_t small_bytes __attribute__((vector_size(CK_TRANSPOSE_BYTES)));
typedef int16_t small_words __attribute__((vector_size(CK_TRANSPOSE_BYTES)));

#define TRANSPOSE_SMALL(V, S, L)                                                                   \
    static void small_##S##_block(const char *source, ptrdiff_t source_step, char *target,         \
                                  ptrdiff_t target_step) {                                         \
        V v[L];                                                                                    \
        TRANSPOSE_EACH(i, L) memcpy(&v[i], source + i * source_step, CK_TRANSPOSE_BYTES);          \
        transpose_##S(v);                                                                          \
        TRANSPOSE_EACH(i, L) memcpy(target + i * target_step, &v[i], CK_TRANSPOSE_BYTES);          \
    }

TRANSPOSE_ROUNDS(small_bytes, small_bytes, bytes, 16, MERGE_LOW_16, MERGE_HIGH_16)
TRANSPOSE_ROUNDS(small_words, small_words, words, 8, MERGE_LOW_8, MERGE_HIGH_8)
TRANSPOSE_SMALL(small_bytes, bytes, 16)
TRANSPOSE_SMALL(small_words, words, 8)

static const ck_transpose_table transpose_table = {
    .to_vectors = {to_vectors_f, to_vectors_d},
    .from_vectors = {from_vectors_f, from_vectors_d},
    .small = {small_bytes_block, small_words_block},
};
