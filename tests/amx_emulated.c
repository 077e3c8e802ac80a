/* The tile kernels over tile instructions written out in C: what their definition says
   (Intel, Architecture Instruction Set Extensions, chapter on AMX), faults included. For tests
   on CPUs without AMX; built and loaded by test_tiles.py. */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <immintrin.h>

#define CK_AMX_EMULATED

/* State of a thread's tiles; palette 0 before a configuration and after a release. */
static _Thread_local struct {
    int palette, rows[8], row_bytes[8];
    uint8_t data[8][16][64];
} amx;

/* A fault of the processor: stops the test. */
#define FAULT_UNLESS(condition) assert(condition)

static void amx_configure(const void *operand) {
    uint8_t raw[64];
    memcpy(raw, operand, 64);
    FAULT_UNLESS(raw[0] == 1 && raw[1] == 0);
    for (int i = 2; i < 16; i++) FAULT_UNLESS(raw[i] == 0);
    for (int t = 0; t < 16; t++) {
        int row_bytes = raw[16 + 2 * t] | raw[17 + 2 * t] << 8, rows = raw[48 + t];
        FAULT_UNLESS(t < 8 || (rows == 0 && row_bytes == 0));
        FAULT_UNLESS(rows <= 16 && row_bytes <= 64);
        FAULT_UNLESS((rows == 0) == (row_bytes == 0));
        if (t < 8) {
            amx.rows[t] = rows;
            amx.row_bytes[t] = row_bytes;
        }
    }
    memset(amx.data, 0, sizeof amx.data);
    amx.palette = 1;
}

static void amx_release(void) { memset(&amx, 0, sizeof amx); }

static void need_tile(int t) { FAULT_UNLESS(amx.palette == 1 && amx.rows[t] > 0); }

static void amx_zero(int t) {
    need_tile(t);
    memset(amx.data[t], 0, sizeof amx.data[t]);
}

static void amx_load(int t, const void *from, ptrdiff_t step) {
    need_tile(t);
    memset(amx.data[t], 0, sizeof amx.data[t]);
    for (int m = 0; m < amx.rows[t]; m++)
        memcpy(amx.data[t][m], (const char *)from + m * step, (size_t)amx.row_bytes[t]);
}

static void amx_store(int t, void *to, ptrdiff_t step) {
    need_tile(t);
    for (int m = 0; m < amx.rows[t]; m++)
        memcpy((char *)to + m * step, amx.data[t][m], (size_t)amx.row_bytes[t]);
}

static void need_product(int c, int a, int b) {
    need_tile(c);
    need_tile(a);
    need_tile(b);
    FAULT_UNLESS(c != a && a != b && c != b);
    FAULT_UNLESS(amx.row_bytes[c] % 4 == 0 && amx.row_bytes[a] % 4 == 0);
    FAULT_UNLESS(amx.row_bytes[b] == amx.row_bytes[c] && amx.rows[c] == amx.rows[a]);
    FAULT_UNLESS(amx.row_bytes[a] == 4 * amx.rows[b]);
}

/* Sums of even and of odd values of k as chains of fused multiply-adds, then one sum with the
   other, then with the accumulator; denormals are zero, rounding is to nearest. */
__attribute__((target("avx512f"))) static void amx_bf16(int c, int a, int b) {
    need_product(c, a, b);
    const unsigned state = _mm_getcsr();
    _mm_setcsr(0x9fc0);
    const __m512i odd_half = _mm512_set1_epi32((int)0xffff0000);
    for (int m = 0; m < amx.rows[c]; m++) {
        __m512 even = _mm512_setzero_ps(), odd = even;
        for (int k = 0; k < amx.rows[b]; k++) {
            uint16_t pair[2];
            memcpy(pair, amx.data[a][m] + 4 * k, 4);
            const __m512i row = _mm512_loadu_si512(amx.data[b][k]);
            even = _mm512_fmadd_ps(
                _mm512_castsi512_ps(_mm512_set1_epi32((int)((uint32_t)pair[0] << 16))),
                _mm512_castsi512_ps(_mm512_slli_epi32(row, 16)), even);
            odd = _mm512_fmadd_ps(
                _mm512_castsi512_ps(_mm512_set1_epi32((int)((uint32_t)pair[1] << 16))),
                _mm512_castsi512_ps(_mm512_and_si512(row, odd_half)), odd);
        }
        __m512 sum = _mm512_loadu_ps((const float *)amx.data[c][m]);
        _mm512_storeu_ps((float *)amx.data[c][m], _mm512_add_ps(sum, _mm512_add_ps(even, odd)));
    }
    _mm_setcsr(state);
}

static void amx_u8(int c, int a, int b) {
    need_product(c, a, b);
    for (int m = 0; m < amx.rows[c]; m++) {
        for (int n = 0; n < amx.row_bytes[c] / 4; n++) {
            uint32_t sum;
            memcpy(&sum, amx.data[c][m] + 4 * n, 4);
            for (int k = 0; k < amx.row_bytes[a]; k++)
                sum += (uint32_t)(amx.data[a][m][k] * (int8_t)amx.data[b][k / 4][4 * n + k % 4]);
            memcpy(amx.data[c][m] + 4 * n, &sum, 4);
        }
    }
}


#include "isa_amx.c"
