/* Softmax and log-softmax over rows. */

/* Vectors that are summed in their own type before the sum goes into a double. */
enum { SUM_CHUNK = 64 };

/* Adds `term`, an expression of c (the first number of a vector) and left (how many numbers
   there are from c on), over a row of `length`, to the double `total`. */
#define SUM_ROW(total, length, term)                                                      \
    for (ptrdiff_t first = 0; first < (length); first += SUM_CHUNK * VL) {                \
        V sum_ = {0};                                                                     \
        ptrdiff_t rest_ = (length) - first;                                               \
        ptrdiff_t stop_ = first + (rest_ < SUM_CHUNK * VL ? rest_ : SUM_CHUNK * VL);      \
        for (ptrdiff_t c = first; c < stop_; c += VL) {                                   \
            ptrdiff_t left = stop_ - c;                                                   \
            V term_ = (term);                                                             \
            sum_ += left >= VL ? term_ : FN(keep_first)(term_, (int)left);                \
        }                                                                                 \
        (total) += (double)FN(sum_lanes)(sum_);                                           \
    }

#include "real_f.h"
#include "softmax.real.h"
#include "real_d.h"
#include "softmax.real.h"
#include "real_end.h"

static const ck_softmax_table softmax_table = {
    .softmax = {softmax_rows_f, softmax_rows_d},
    .log_softmax = {log_softmax_rows_f, log_softmax_rows_d},
    .softmax_grad = {softmax_grad_rows_f, softmax_grad_rows_d},
    .log_softmax_grad = {log_softmax_grad_rows_f, log_softmax_grad_rows_d},
};
