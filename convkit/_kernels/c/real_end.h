/* Forgets the names that real_f.h or real_d.h set. */
#undef T
#undef V
#undef VL
#undef FN
