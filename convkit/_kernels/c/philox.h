/* Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random
   numbers: as easy as 1, 2, 3", SC 2011: a block of four random words is a function of a key
   and a counter, so any thread can make any block. */
#ifndef CK_PHILOX_H
#define CK_PHILOX_H

#include <stdint.h>

#define CK_PHILOX_M0 0xD2511F53u
#define CK_PHILOX_M1 0xCD9E8D57u
#define CK_PHILOX_W0 0x9E3779B9u
#define CK_PHILOX_W1 0xBB67AE85u

static inline void ck_philox_round(uint32_t c[4], uint32_t k0, uint32_t k1) {
    uint64_t p0 = (uint64_t)CK_PHILOX_M0 * c[0], p1 = (uint64_t)CK_PHILOX_M1 * c[2];
    uint32_t c1 = c[1], c3 = c[3];
    c[0] = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c[1] = (uint32_t)p1;
    c[2] = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c[3] = (uint32_t)p0;
}

/* Replaces the counter by its block. */
static inline void ck_philox(uint32_t c[4], uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; round++) {
        ck_philox_round(c, k0, k1);
        k0 += CK_PHILOX_W0;
        k1 += CK_PHILOX_W1;
    }
}

#endif
