/* Names for a template's number type: float. No include guard: type after type is set. */
#include "real_end.h"
#define T float
#define V vfloat
#define VL VL_F
#define FN(name) CK_CAT(name, _f)
