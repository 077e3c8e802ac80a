/* What the CPU and the operating system allow, found once. */
#ifndef CK_CPU_H
#define CK_CPU_H

/* Instruction sets in ascending order; each includes those before it on x86-64. */
enum ck_isa { CK_ISA_GENERIC = 0, CK_ISA_AVX2 = 1, CK_ISA_AVX512 = 2, CK_ISA_COUNT = 3 };

/* The highest instruction set that this machine can run and that was compiled in. */
int ck_cpu_best_isa(void);

/* The lower-case name of an instruction set ("generic", "avx2", "avx512"). */
const char *ck_isa_name(int isa);

/* Writes the CPU's brand string (or "unknown") into `out` of `size` bytes. */
void ck_cpu_name(char *out, int size);

#endif
