/* Kernels for any CPU: 16-byte vectors that the compiler lowers to whatever is there. */
#define CK_ISA generic
#define CK_VBYTES 16
#define CK_VECTOR_REGISTERS 16
#include "isa_body.h"
