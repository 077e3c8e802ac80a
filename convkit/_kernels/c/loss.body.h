/* Losses: cross entropy over rows, squared error and binary cross entropy over numbers. */
#include "real_f.h"
#include "loss.real.h"
#include "real_d.h"
#include "loss.real.h"
#include "real_end.h"

static const ck_loss_table loss_table = {
    .cross_entropy = {cross_entropy_f, cross_entropy_d},
    .cross_entropy_grad = {cross_entropy_grad_f, cross_entropy_grad_d},
    .mse = {mse_f, mse_d},
    .mse_grad = {mse_grad_f, mse_grad_d},
    .bce = {bce_f, bce_d},
    .bce_grad = {bce_grad_f, bce_grad_d},
};
