/* Floating-point state of the calling thread. */
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

#endif
