#include "cpu.h"

#include <string.h>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

static int have_bf16(void) {
    enum { AVX512_BF16 = 1 << 5 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & AVX512_BF16;
}

#if defined(__x86_64__) && defined(__linux__)
enum { XSTATE_TILE_DATA = 18, REQUEST_PERMISSION = 0x1023, OSXSAVE = 1 << 27,
       AMX_BITS = 1 << 22 | 1 << 24 | 1 << 25 /* bfloat16, tiles, int8 */,
       TILE_STATES = 1 << 17 | 1 << 18 };

/* Whether tiles can be used: the CPU has them, the kernel saves their registers, and grants
   this process their use (Linux does from 5.16 on, once it is asked; a refusal, for example
   because of a small alternative signal stack, means doing without). */
static int have_amx(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & TILE_STATES) != TILE_STATES) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & AMX_BITS) != AMX_BITS) return 0;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, XSTATE_TILE_DATA) == 0;
}
#else
static int have_amx(void) { return 0; }
#endif

/* The compiler's run-time support checks CPUID and XCR0 both, so a set whose registers
   the operating system does not save is not reported. */
int ck_cpu_best_isa(void) {
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    static int more = -1;
    if (more < 0)
        more = !avx512 || !have_bf16() ? 0 : have_amx() ? CK_ISA_AMX : CK_ISA_AVX512_BF16;
    return more ? more : avx512 ? CK_ISA_AVX512 : avx2 ? CK_ISA_AVX2 : CK_ISA_GENERIC;
}

/* AMD's, from Zen 4 on, start a product of bfloat16 pairs as often as a multiply-add; Intel's of the
   fourth Xeon generation half as often, with nothing gained. Which bit tells that there is none. */
int ck_cpu_preferred_isa(void) {
    enum { AUTHENTIC_AMD = 0x68747541 };
    unsigned a, b, c, d;
    const int best = ck_cpu_best_isa();
    if (best != CK_ISA_AVX512_BF16) return best;
    return __get_cpuid(0, &a, &b, &c, &d) && b == AUTHENTIC_AMD ? best : CK_ISA_AVX512;
}

int ck_cpu_has_vnni(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vnni") != 0;
}

/* Asked directly: compilers that do not know the set build all else. Its registers are those of
   AVX-512, of which the run-time support has checked that they are saved. Asked once: under a
   hypervisor each question takes tens of microseconds. */
int ck_cpu_has_fp16(void) {
    static int known = -1;
    unsigned a, b, c, d;
    __builtin_cpu_init();
    if (known < 0)
        known = __builtin_cpu_supports("avx512bw") && __get_cpuid_count(7, 0, &a, &b, &c, &d)
                && d >> 23 & 1;
    return known;
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

int ck_cpu_preferred_isa(void) { return CK_ISA_GENERIC; }

int ck_cpu_has_vnni(void) { return 0; }

int ck_cpu_has_fp16(void) { return 0; }

void ck_cpu_name(char *out, int size) {
    strncpy(out, "unknown", (size_t)size);
    out[size - 1] = 0;
}
#endif

const char *ck_isa_name(int isa) {
    static const char *const names[CK_ISA_COUNT] = {"generic", "avx2", "avx512", "avx512_bf16",
                                                        "amx"};
    return isa >= 0 && isa < CK_ISA_COUNT ? names[isa] : "unknown";
}
