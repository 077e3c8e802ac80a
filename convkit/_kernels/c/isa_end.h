/* Closes what isa_begin.h opened. */
#ifdef CK_TARGET
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
