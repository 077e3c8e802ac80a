/* What the CPU and the operating system allow, found once. */
#ifndef CK_CPU_H
#define CK_CPU_H

/* Instruction sets in ascending order; each includes those before it on x86-64. */
enum ck_isa {
    CK_ISA_GENERIC = 0,
    CK_ISA_AVX2 = 1,
    CK_ISA_AVX512 = 2,
    CK_ISA_AVX512_BF16 = 3,
    CK_ISA_AMX = 4,
    CK_ISA_COUNT = 5
};

/* The highest instruction set that this machine can run and that was compiled in. The first
   call asks the operating system for the use of tiles where the CPU has them. */
int ck_cpu_best_isa(void);

/* The one to use unless another is asked for: the highest but AVX512-BF16, whose products are taken
   where they run as fast as multiply-adds. */
int ck_cpu_preferred_isa(void);

/* The lower-case name of an instruction set ("generic", "avx2", "avx512", "avx512_bf16", "amx"). */
const char *ck_isa_name(int isa);

/* Writes the CPU's brand string (or "unknown") into `out` of `size` bytes. */
void ck_cpu_name(char *out, int size);

/* Whether the CPU multiplies bytes by AVX-512 VNNI. */
int ck_cpu_has_vnni(void);

/* Whether the CPU computes in float16 by AVX512-FP16. */
int ck_cpu_has_fp16(void);

#endif
