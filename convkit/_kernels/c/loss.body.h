/* Losses: cross entropy over rows, and losses of single numbers. */
#include "real_f.h"
#include "loss.real.h"
#include "real_d.h"
#include "loss.real.h"
#include "real_end.h"

#define POINTWISE_TABLE(suffix, S)                               \
    {                                                            \
        [CK_LOSS_MSE] = CK_CAT(mse##suffix, S),                  \
        [CK_LOSS_BCE_LOGITS] = CK_CAT(bce_logits##suffix, S),    \
        [CK_LOSS_BCE] = CK_CAT(bce##suffix, S),                  \
        [CK_LOSS_L1] = CK_CAT(l1##suffix, S),                    \
        [CK_LOSS_HUBER] = CK_CAT(huber##suffix, S),              \
        [CK_LOSS_SMOOTH_L1] = CK_CAT(smooth_l1##suffix, S),      \
        [CK_LOSS_KL] = CK_CAT(kl##suffix, S),                    \
        [CK_LOSS_KL_LOG] = CK_CAT(kl_log##suffix, S),            \
        [CK_LOSS_HINGE] = CK_CAT(hinge##suffix, S),              \
        [CK_LOSS_FOCAL] = CK_CAT(focal##suffix, S),              \
    }

static const ck_loss_table loss_table = {
    .cross_entropy = {cross_entropy_f, cross_entropy_d},
    .cross_entropy_grad = {cross_entropy_grad_f, cross_entropy_grad_d},
    .pointwise = {POINTWISE_TABLE(_sum, _f), POINTWISE_TABLE(_sum, _d)},
    .pointwise_grad = {POINTWISE_TABLE(_slopes, _f), POINTWISE_TABLE(_slopes, _d)},
};
