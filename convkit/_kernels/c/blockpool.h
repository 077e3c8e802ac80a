/* A bounded pool of memory blocks.

   Fresh pages from the operating system cost as much as a kernel: zeroing and mapping
   4 KiB takes about half a microsecond. Blocks given back are kept, up to a bound in bytes,
   and handed out again.

   Small blocks are kept by size class. Large ones are spans of chunks: a span is cut to what is
   asked for, and joins its free neighbours when it comes back, so that what one layer of a network
   used serves any other. The smallest that serves is taken, and sizes are rounded so that two blocks
   of bfloat16 fill what one of float32 leaves. A training step then takes little more than what it
   uses at once; kept by size, the blocks of ResNet-18 were half as much again. A chunk's pages are
   the operating system's until a span that covers them is handed out.

   The lock is only ever tried: who does not get it goes to the operating system, and leaves a
   span that comes back for the next one who does; so neither a fork in another thread nor a signal
   can hang a caller.

   Under AddressSanitizer nothing is kept and no size rounded up: so it sees reads and writes one
   byte beyond a block, or of one given back. */
#ifndef CK_BLOCKPOOL_H
#define CK_BLOCKPOOL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

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

/* Blocks from here on are spans. */
#define CK_POOL_LARGE ((size_t)64 << 10)
/* A span is cut where so much is left of it. */
#define CK_POOL_LEAST_REST ((size_t)4 << 10)
#define CK_POOL_HUGE_PAGE ((size_t)2 << 20)
/* Addresses are taken by so many: what lies in one chunk can be joined, and costs no memory before it
   is used. */
#define CK_POOL_CHUNK ((size_t)1 << 30)

typedef struct ck_block {
    struct ck_block *next;
} ck_block;

/* What lies before every large block. */
typedef struct ck_span {
    size_t size;                  /* bytes, with this; 0 for a block of the system's own */
    size_t before;                /* size of the neighbour before; 0 at a chunk's begin */
    size_t paged;                 /* of a free one: bytes, from its begin on, that have pages */
    struct ck_span *next, *prev;  /* free ones of its class */
    int free, last;               /* last: of its chunk */
    char pad[16];
} ck_span;

typedef struct ck_pool {
    atomic_flag busy;
    size_t bound, held;           /* bytes the free blocks may hold, and do hold */
    size_t fresh, reused;         /* blocks with new pages; blocks handed on */
    size_t used, most;            /* bytes of spans that are in use now; at most, ever */
    ck_block *free[CK_POOL_CLASSES];
    ck_span *spans[CK_POOL_CLASSES];
    _Atomic(ck_span *) late;      /* came back while the lock was taken */
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

static inline int ck_pool_lock(ck_pool *pool) {
    return !atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire);
}

static inline void ck_pool_unlock(ck_pool *pool) {
    atomic_flag_clear_explicit(&pool->busy, memory_order_release);
}

static inline void *ck_system_take(size_t size) {
    void *p = NULL;
    return posix_memalign(&p, 64, size) ? NULL : p;
}

/* -- spans: the caller holds the lock -------------------------------------------------------- */

/* A span's list: of those between its class's size and the next. */
static inline ck_span **ck_span_list(ck_pool *pool, size_t size) {
    size_t rounded;
    int kind = ck_size_class(size, &rounded);
    return &pool->spans[rounded > size ? kind - 1 : kind];
}

static inline ck_span *ck_span_after(ck_span *span) {
    return span->last ? NULL : (ck_span *)((char *)span + span->size);
}

/* Tells a span's neighbour how large it is now. */
static inline void ck_span_tell(ck_span *span) {
    ck_span *after = ck_span_after(span);
    if (after) after->before = span->size;
}

static inline void ck_span_enter(ck_pool *pool, ck_span *span) {
    ck_span **list = ck_span_list(pool, span->size);
    span->free = 1;
    span->prev = NULL;
    span->next = *list;
    if (*list) (*list)->prev = span;
    *list = span;
    pool->held += span->paged;
}

static inline void ck_span_leave(ck_pool *pool, ck_span *span) {
    if (span->prev) span->prev->next = span->next;
    else *ck_span_list(pool, span->size) = span->next;
    if (span->next) span->next->prev = span->prev;
    span->free = 0;
    pool->held -= span->paged;
}

/* Enters a new chunk with a span of at least `size` bytes, and returns that, or NULL. */
static inline ck_span *ck_span_map(ck_pool *pool, size_t size) {
    size_t chunk = CK_POOL_CHUNK;
    for (;; chunk /= 2) { /* less where there is no room */
        if (chunk < size) chunk = size;
        chunk = (chunk + CK_POOL_HUGE_PAGE - 1) / CK_POOL_HUGE_PAGE * CK_POOL_HUGE_PAGE;
        size_t whole = chunk + CK_POOL_HUGE_PAGE;
        char *p = mmap(NULL, whole, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANON, -1, 0);
        if (p == MAP_FAILED) {
            if (chunk < size + CK_POOL_HUGE_PAGE) return NULL;
            continue;
        }
        size_t head = (CK_POOL_HUGE_PAGE - ((uintptr_t)p & (CK_POOL_HUGE_PAGE - 1)))
                      & (CK_POOL_HUGE_PAGE - 1);
        if (head) munmap(p, head);
        munmap(p + head + chunk, whole - head - chunk);
        ck_span *span = (ck_span *)(p + head);
#if defined(MADV_HUGEPAGE)
        madvise(span, chunk, MADV_HUGEPAGE);
#endif
        span->size = chunk;
        span->before = span->paged = 0;
        span->last = 1;
        ck_span_enter(pool, span);
        return span;
    }
}

/* Returns the free span to cut `size` bytes from: the smallest with pages, and of the smallest the
   first in memory; without one, that with the most pages. */
static inline ck_span *ck_span_find(ck_pool *pool, size_t size) {
    ck_span *best = NULL, *most = NULL;
    ck_span **list = ck_span_list(pool, size);
    for (; list < pool->spans + CK_POOL_CLASSES && !best; list++) {
        for (ck_span *span = *list; span; span = span->next) {
            if (span->size < size) continue;
            if (!most || span->paged > most->paged) most = span;
            if (span->paged < size) continue;
            if (!best || span->size < best->size || (span->size == best->size && span < best))
                best = span;
        }
    }
    if (!best) best = most;
    return best ? best : ck_span_map(pool, size);
}

/* Gives the pages of a span in no list back to the operating system. */
static inline void ck_span_drop(ck_span *span) {
    uintptr_t begin = (uintptr_t)(span + 1), end = (uintptr_t)span + span->size;
    /* Whole pages, which are no larger than this. */
    begin = (begin + CK_POOL_LARGE - 1) & ~(uintptr_t)(CK_POOL_LARGE - 1);
    end &= ~(uintptr_t)(CK_POOL_LARGE - 1);
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
    span->paged = 0;
}

/* Lists a free span, or unmaps it where it is a whole chunk without pages. */
static inline void ck_span_settle(ck_pool *pool, ck_span *span) {
    if (span->paged || span->before || !span->last) {
        ck_span_enter(pool, span);
    } else {
        munmap(span, span->size);
    }
}

/* Joins a span that comes back with its free neighbours. */
static inline void ck_span_join(ck_pool *pool, ck_span *span) {
    ck_span *before = span->before ? (ck_span *)((char *)span - span->before) : NULL;
    ck_span *after = ck_span_after(span);
    pool->used -= span->size;
    span->paged = span->size;
    if (pool->held + span->size > pool->bound) ck_span_drop(span);
    if (after && after->free) {
        ck_span_leave(pool, after);
        span->size += after->size;
        span->paged += after->paged;
        span->last = after->last;
    }
    if (before && before->free) {
        ck_span_leave(pool, before);
        before->size += span->size;
        before->paged += span->paged;
        before->last = span->last;
        span = before;
    }
    ck_span_tell(span);
    ck_span_settle(pool, span);
}

/* Joins what came back while the lock was taken. */
static inline void ck_span_join_late(ck_pool *pool) {
    if (!atomic_load_explicit(&pool->late, memory_order_relaxed)) return;
    ck_span *span = atomic_exchange_explicit(&pool->late, NULL, memory_order_acquire);
    while (span) {
        ck_span *next = span->next;
        ck_span_join(pool, span);
        span = next;
    }
}

/* Returns the size of a span for so many bytes: with this struct, and rounded up to 1/512 of the
   power of two below, so that two blocks of half the size fill a span that is free. */
static inline size_t ck_span_size(size_t size) {
    size += sizeof(ck_span);
    size_t step = (size_t)1 << (63 - 9 - __builtin_clzll((unsigned long long)size));
    return (size + step - 1) & ~(step - 1);
}

static inline ck_span *ck_span_take(ck_pool *pool, size_t size) {
    ck_span_join_late(pool);
    ck_span *span = ck_span_find(pool, size);
    if (!span) return NULL;
    ck_span_leave(pool, span);
    *(span->paged >= size ? &pool->reused : &pool->fresh) += 1;
    if (span->size - size >= CK_POOL_LEAST_REST) {
        ck_span *rest = (ck_span *)((char *)span + size);
        rest->size = span->size - size;
        rest->before = size;
        rest->paged = span->paged > size ? span->paged - size : 0;
        rest->last = span->last;
        ck_span_tell(rest);
        ck_span_enter(pool, rest);
        span->size = size;
        span->last = 0;
    }
    pool->used += span->size;
    if (pool->used > pool->most) pool->most = pool->used;
    return span;
}

/* -- blocks --------------------------------------------------------------------------------- */

static inline void *ck_large_take(size_t size) {
    ck_pool *pool = &ck_the_pool;
    ck_span *span = NULL;
    size = ck_span_size(size);
    if (ck_pool_lock(pool)) {
        span = ck_span_take(pool, size);
        ck_pool_unlock(pool);
    }
    if (!span) {
        span = ck_system_take(size);
        if (!span) return NULL;
        span->size = 0;
    }
    return span + 1;
}

static inline void ck_large_give(void *p) {
    ck_pool *pool = &ck_the_pool;
    ck_span *span = (ck_span *)p - 1;
    if (!span->size) {
        free(span);
    } else if (ck_pool_lock(pool)) {
        ck_span_join(pool, span);
        ck_span_join_late(pool);
        ck_pool_unlock(pool);
    } else {
        span->next = atomic_load_explicit(&pool->late, memory_order_relaxed);
        while (!atomic_compare_exchange_weak_explicit(&pool->late, &span->next, span,
                                                      memory_order_release, memory_order_relaxed))
            ;
    }
}

static inline void *ck_pool_take(size_t size) {
    ck_pool *pool = &ck_the_pool;
    size_t rounded;
    if (size > PTRDIFF_MAX / 2) return NULL;
    if (!CK_POOL_REUSES) return ck_system_take(size);
    if (size >= CK_POOL_LARGE) return ck_large_take(size);
    int kind = ck_size_class(size, &rounded);
    ck_block *block = NULL;
    if (ck_pool_lock(pool)) {
        block = pool->free[kind];
        if (block) {
            pool->free[kind] = block->next;
            pool->held -= rounded;
            pool->reused++;
        } else {
            pool->fresh++;
        }
        ck_pool_unlock(pool);
    }
    return block ? (void *)block : ck_system_take(rounded);
}

static inline void ck_pool_give(void *p, size_t size) {
    ck_pool *pool = &ck_the_pool;
    size_t rounded;
    if (!p) return;
    if (!CK_POOL_REUSES) {
        free(p);
        return;
    }
    if (size >= CK_POOL_LARGE) {
        ck_large_give(p);
        return;
    }
    int kind = ck_size_class(size, &rounded), kept = 0;
    if (ck_pool_lock(pool)) {
        if (pool->held + rounded <= pool->bound) {
            ((ck_block *)p)->next = pool->free[kind];
            pool->free[kind] = (ck_block *)p;
            pool->held += rounded;
            kept = 1;
        }
        ck_pool_unlock(pool);
    }
    if (!kept) free(p);
}

/* Returns free blocks to the operating system until at most `keep` bytes are held. */
static inline void ck_pool_trim(size_t keep) {
    ck_pool *pool = &ck_the_pool;
    if (!ck_pool_lock(pool)) return;
    ck_span_join_late(pool);
    for (int kind = CK_POOL_CLASSES - 1; kind >= 0 && pool->held > keep; kind--) {
        for (ck_span *span = pool->spans[kind], *next; span && pool->held > keep; span = next) {
            next = span->next;
            if (!span->paged) continue;
            ck_span_leave(pool, span);
            ck_span_drop(span);
            ck_span_settle(pool, span);
        }
        while (pool->free[kind] && pool->held > keep) {
            ck_block *block = pool->free[kind];
            pool->free[kind] = block->next;
            pool->held -= (size_t)(8 + kind % 8) << (kind / 8 + 6);
            free(block);
        }
    }
    ck_pool_unlock(pool);
}

#endif
