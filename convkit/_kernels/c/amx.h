/* The tile instructions of AMX by the names that tile.body.h and isa_amx.c use.

   Written as assembly with a memory clobber: compilers' own intrinsics of some versions do
   not say that a tile load reads memory, so that stores before it may move behind it. A test
   that emulates tiles brings functions of the same names and leaves this header out. */
#ifndef CK_AMX_H
#define CK_AMX_H

#include <stddef.h>

/* Eight instructions that do nothing, behind each load and product. While the processor throttles
   its tiles, it loses time wherever two tile instructions are taken up in the same cycle or close
   by: a step of four loads and four products takes 83 ns so, without them 137. At full speed they
   cost nothing (docs/performance/tiles.md). */
#define AMX_APART "\n\t.skip 8, 0x90"

#define amx_configure(config) \
    __asm__ volatile("ldtilecfg %0" : : "m"(*(const ck_tile_config *)(config)) : "memory")
#define amx_release() __asm__ volatile("tilerelease" : : : "memory")
#define amx_zero(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define amx_load(tile, from, step)                             \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile AMX_APART \
                     : : "r"((const void *)(from)), "r"((ptrdiff_t)(step)) : "memory")
#define amx_store(tile, to, step)                              \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)"    \
                     : : "r"((void *)(to)), "r"((ptrdiff_t)(step)) : "memory")

/* c += a b: bfloat16 pairs to float, unsigned times signed bytes to int32. */
#define AMX_PRODUCT(name, c, a, b) \
    __asm__ volatile(name " %%tmm" #b ", %%tmm" #a ", %%tmm" #c AMX_APART : :)
#define amx_bf16(c, a, b) AMX_PRODUCT("tdpbf16ps", c, a, b)
#define amx_u8(c, a, b) AMX_PRODUCT("tdpbusd", c, a, b)

#endif
