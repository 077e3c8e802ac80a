/* Floating-point state and fork state of the calling thread or process. */
#ifndef CK_FPSTATE_H
#define CK_FPSTATE_H

#if defined(__x86_64__)
#include <immintrin.h>
/* Denormals cost over a hundred cycles each: flush them inside kernels. */
static inline unsigned ck_fp_enter(void) {
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u); /* flush to zero, denormals are zero */
    return before;
}
static inline void ck_fp_leave(unsigned before) {
    /* The caller's control bits come back; exception flags raised meanwhile are dropped. */
    _mm_setcsr(before);
}
#elif defined(__aarch64__)
static inline unsigned ck_fp_enter(void) {
    unsigned long before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (1ul << 24)));
    return (unsigned)before;
}
static inline void ck_fp_leave(unsigned before) {
    __asm__ volatile("msr fpcr, %0" : : "r"((unsigned long)before));
}
#else
static inline unsigned ck_fp_enter(void) { return 0; }
static inline void ck_fp_leave(unsigned before) { (void)before; }
#endif

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
/* OpenMP's worker threads do not survive fork(): a child of a process that has used them
   must stay on one thread, or it waits for ever. */
static volatile int ck_in_forked_child = 0;
static void ck_on_fork(void) { ck_in_forked_child = 1; }
static inline void ck_watch_fork(void) { pthread_atfork(NULL, NULL, ck_on_fork); }
static inline int ck_forked(void) { return ck_in_forked_child; }
#else
static inline void ck_watch_fork(void) {}
static inline int ck_forked(void) { return 0; }
#endif

#endif
