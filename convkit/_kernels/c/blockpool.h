/* A bounded pool of memory blocks by size class.

   Fresh pages from the operating system cost as much as a kernel: zeroing and mapping
   4 KiB takes about half a microsecond. Blocks given back are kept, up to a bound in bytes,
   and handed out again. The lock is only ever tried: who does not get it goes to the
   operating system, so neither a fork in another thread nor a signal can hang a caller.

   Under AddressSanitizer nothing is kept and no size rounded up: so it sees reads and writes one
   byte beyond a block, or of one given back. */
#ifndef CK_BLOCKPOOL_H
#define CK_BLOCKPOOL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define CK_POOL_REUSES 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CK_POOL_REUSES 0
#endif
#endif
#ifndef CK_POOL_REUSES
#define CK_POOL_REUSES 1
#endif

enum { CK_POOL_CLASSES = 448 };

typedef struct ck_block {
    struct ck_block *next;
} ck_block;

typedef struct ck_pool {
    atomic_flag busy;
    size_t bound, held;           /* bytes the free blocks may hold, and do hold */
    size_t fresh, reused;         /* blocks asked of the system; blocks handed on */
    ck_block *free[CK_POOL_CLASSES];
} ck_pool;

static ck_pool ck_the_pool = {.busy = ATOMIC_FLAG_INIT, .bound = (size_t)1 << 30};

/* Size classes: eight to each power of two, from 512 bytes up, so at most 1/8 is waste.
   Returns the class's number and its block size, a multiple of 64. */
static inline int ck_size_class(size_t size, size_t *rounded) {
    if (size < 512) size = 512;
    int power = 63 - __builtin_clzll((unsigned long long)size);
    size_t step = (size_t)1 << (power - 3);
    size_t eighths = (size - ((size_t)1 << power) + step - 1) / step; /* 0..8 */
    *rounded = ((size_t)1 << power) + eighths * step;
    return (power - 9) * 8 + (int)eighths;
}

static inline void *ck_system_take(size_t rounded) {
    size_t alignment = rounded >= ((size_t)4 << 20) ? (size_t)2 << 20 : 64;
    void *p = NULL;
    if (posix_memalign(&p, alignment, rounded)) return NULL;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (alignment > 64) madvise(p, rounded, MADV_HUGEPAGE);
#endif
    return p;
}

static inline void *ck_pool_take(size_t size) {
    ck_pool *pool = &ck_the_pool;
    size_t rounded;
    if (size > PTRDIFF_MAX / 2) return NULL;
    if (!CK_POOL_REUSES) return ck_system_take(size);
    int kind = ck_size_class(size, &rounded);
    ck_block *block = NULL;
    if (!atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire)) {
        block = pool->free[kind];
        if (block) {
            pool->free[kind] = block->next;
            pool->held -= rounded;
            pool->reused++;
        } else {
            pool->fresh++;
        }
        atomic_flag_clear_explicit(&pool->busy, memory_order_release);
    }
    return block ? (void *)block : ck_system_take(rounded);
}

static inline void ck_pool_give(void *p, size_t size) {
    ck_pool *pool = &ck_the_pool;
    size_t rounded;
    if (!p) return;
    int kind = ck_size_class(size, &rounded), kept = 0;
    if (!CK_POOL_REUSES) {
        free(p);
        return;
    }
    if (!atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire)) {
        if (pool->held + rounded <= pool->bound) {
            ((ck_block *)p)->next = pool->free[kind];
            pool->free[kind] = (ck_block *)p;
            pool->held += rounded;
            kept = 1;
        }
        atomic_flag_clear_explicit(&pool->busy, memory_order_release);
    }
    if (!kept) free(p);
}

/* Returns free blocks to the operating system until at most `keep` bytes are held. */
static inline void ck_pool_trim(size_t keep) {
    ck_pool *pool = &ck_the_pool;
    if (atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire)) return;
    for (int kind = CK_POOL_CLASSES - 1; kind >= 0 && pool->held > keep; kind--) {
        size_t rounded = ((size_t)1 << (kind / 8 + 9)) + (size_t)(kind % 8)
                         * ((size_t)1 << (kind / 8 + 6));
        while (pool->free[kind] && pool->held > keep) {
            ck_block *block = pool->free[kind];
            pool->free[kind] = block->next;
            pool->held -= rounded;
            free(block);
        }
    }
    atomic_flag_clear_explicit(&pool->busy, memory_order_release);
}

#endif
