/* Names for a template's number type: double. No include guard: type after type is set. */
#include "real_end.h"
#define T double
#define V vdouble
#define VL VL_D
#define FN(name) CK_CAT(name, _d)
