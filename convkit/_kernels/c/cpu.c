#include "cpu.h"

#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

/* The compiler's run-time support checks CPUID and XCR0 both, so a set whose registers
   the operating system does not save is not reported. */
int ck_cpu_best_isa(void) {
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return avx512 ? CK_ISA_AVX512 : avx2 ? CK_ISA_AVX2 : CK_ISA_GENERIC;
}

void ck_cpu_name(char *out, int size) {
    unsigned words[12], most = __get_cpuid_max(0x80000000u, 0);
    if (most < 0x80000004u || size < 49) {
        strncpy(out, "unknown", (size_t)size);
        out[size - 1] = 0;
        return;
    }
    for (unsigned i = 0; i < 3; i++)
        __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                    &words[4 * i + 3]);
    memcpy(out, words, 48);
    out[48] = 0;
}
#else
int ck_cpu_best_isa(void) { return CK_ISA_GENERIC; }

void ck_cpu_name(char *out, int size) {
    strncpy(out, "unknown", (size_t)size);
    out[size - 1] = 0;
}
#endif

const char *ck_isa_name(int isa) {
    static const char *const names[CK_ISA_COUNT] = {"generic", "avx2", "avx512"};
    return isa >= 0 && isa < CK_ISA_COUNT ? names[isa] : "unknown";
}
