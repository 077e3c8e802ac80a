/* Updates of parameters: one pass that reads gradient and state once and writes parameter
   and state once. Memory sets the speed, so these are plain loops that the compiler
   vectorises; what does not change from element to element is decided outside of them. */

#define OPTIM_TEMPLATE(T, S, SQRT)                                                             \
    static void optim_sgd_##S(const ck_optim_slice *s, const ck_optim_settings *settings) {    \
        const ck_sgd_settings *o = &settings->sgd;                                             \
        T *restrict p = s->param;                                                              \
        const T *restrict g = s->grad;                                                         \
        T *restrict buffer = s->state[0];                                                      \
        const ptrdiff_t n = s->count;                                                          \
        const T lr = (T)o->lr, decay = (T)o->weight_decay;                                     \
        const T keep = o->fresh ? 0 : (T)o->momentum;                                          \
        const T take = o->fresh ? 1 : (T)(1.0 - o->dampening);                                 \
        const T ahead = (T)o->momentum;                                                        \
        if (!buffer) {                                                                         \
            for (ptrdiff_t i = 0; i < n; i++) p[i] -= lr * (g[i] + decay * p[i]);              \
        } else {                                                                               \
            if (o->fresh) memset(buffer, 0, (size_t)n * sizeof(T));                            \
            if (o->nesterov) {                                                                 \
                for (ptrdiff_t i = 0; i < n; i++) {                                            \
                    T d = g[i] + decay * p[i];                                                 \
                    T b = keep * buffer[i] + take * d;                                         \
                    buffer[i] = b;                                                             \
                    p[i] -= lr * (d + ahead * b);                                              \
                }                                                                              \
            } else {                                                                           \
                for (ptrdiff_t i = 0; i < n; i++) {                                            \
                    T d = g[i] + decay * p[i];                                                 \
                    T b = keep * buffer[i] + take * d;                                         \
                    buffer[i] = b;                                                             \
                    p[i] -= lr * b;                                                            \
                }                                                                              \
            }                                                                                  \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    static void optim_adam_##S(const ck_optim_slice *s, const ck_optim_settings *settings) {   \
        const ck_adam_settings *o = &settings->adam;                                           \
        T *restrict p = s->param;                                                              \
        const T *restrict g = s->grad;                                                         \
        T *restrict mean = s->state[0], *restrict square = s->state[1];                        \
        T *restrict largest = s->state[2];                                                     \
        const ptrdiff_t n = s->count;                                                          \
        const T size = (T)o->step_size, root = (T)(1.0 / o->root_correction);                  \
        const T eps = (T)o->eps, shrink = (T)o->shrink, decay = (T)o->weight_decay;            \
        const T take1 = (T)(1.0 - o->beta1);                                                   \
        const T keep2 = (T)o->beta2, take2 = (T)(1.0 - o->beta2);                              \
        for (ptrdiff_t i = 0; i < n; i++) {                                                    \
            T w = p[i] * shrink;                                                               \
            T d = g[i] + decay * w;                                                            \
            T m = mean[i] + take1 * (d - mean[i]);                                             \
            T v = keep2 * square[i] + take2 * (d * d);                                         \
            mean[i] = m;                                                                       \
            square[i] = v;                                                                     \
            if (largest) {                                                                     \
                v = v > largest[i] || v != v ? v : largest[i];                                 \
                largest[i] = v;                                                                \
            }                                                                                  \
            p[i] = w - size * (m / (SQRT(v) * root + eps));                                    \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    static void optim_adagrad_##S(const ck_optim_slice *s, const ck_optim_settings *settings) {\
        const ck_adagrad_settings *o = &settings->adagrad;                                     \
        T *restrict p = s->param;                                                              \
        const T *restrict g = s->grad;                                                         \
        T *restrict sum = s->state[0];                                                         \
        const T lr = (T)o->lr, eps = (T)o->eps, decay = (T)o->weight_decay;                    \
        for (ptrdiff_t i = 0; i < s->count; i++) {                                             \
            T d = g[i] + decay * p[i];                                                         \
            T v = sum[i] + d * d;                                                              \
            sum[i] = v;                                                                        \
            p[i] -= lr * (d / (SQRT(v) + eps));                                                \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    static void optim_adadelta_##S(const ck_optim_slice *s,                                    \
                                   const ck_optim_settings *settings) {                        \
        const ck_adadelta_settings *o = &settings->adadelta;                                   \
        T *restrict p = s->param;                                                              \
        const T *restrict g = s->grad;                                                         \
        T *restrict square = s->state[0], *restrict change = s->state[1];                      \
        const T lr = (T)o->lr, eps = (T)o->eps, decay = (T)o->weight_decay;                    \
        const T keep = (T)o->rho, take = (T)(1.0 - o->rho);                                    \
        for (ptrdiff_t i = 0; i < s->count; i++) {                                             \
            T d = g[i] + decay * p[i];                                                         \
            T v = keep * square[i] + take * (d * d);                                           \
            T delta = SQRT(change[i] + eps) / SQRT(v + eps) * d;                               \
            square[i] = v;                                                                     \
            change[i] = keep * change[i] + take * (delta * delta);                             \
            p[i] -= lr * delta;                                                                \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    static void optim_rmsprop_##S(const ck_optim_slice *s, const ck_optim_settings *settings) {\
        const ck_rmsprop_settings *o = &settings->rmsprop;                                     \
        T *restrict p = s->param;                                                              \
        const T *restrict g = s->grad;                                                         \
        T *restrict square = s->state[0], *restrict buffer = s->state[1];                      \
        T *restrict mean = s->state[2];                                                        \
        const T lr = (T)o->lr, eps = (T)o->eps, decay = (T)o->weight_decay;                    \
        const T keep = (T)o->alpha, take = (T)(1.0 - o->alpha), momentum = (T)o->momentum;     \
        for (ptrdiff_t i = 0; i < s->count; i++) {                                             \
            T d = g[i] + decay * p[i];                                                         \
            T v = keep * square[i] + take * (d * d);                                           \
            square[i] = v;                                                                     \
            if (mean) {                                                                        \
                mean[i] += take * (d - mean[i]);                                               \
                v -= mean[i] * mean[i];                                                        \
            }                                                                                  \
            d /= SQRT(v) + eps;                                                                \
            if (buffer) d = buffer[i] = momentum * buffer[i] + d;                              \
            p[i] -= lr * d;                                                                    \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    static void optim_squares_##S(const ck_optim_slice *s, const ck_optim_settings *settings) { \
        const T *p = s->param;                                                                 \
        double sum[8] = {0}, *total = s->state[0];                                             \
        ptrdiff_t i = 0;                                                                       \
        (void)settings;                                                                        \
        for (; i + 8 <= s->count; i += 8)                                                      \
            for (int j = 0; j < 8; j++) sum[j] += (double)p[i + j] * (double)p[i + j];         \
        for (; i < s->count; i++) sum[0] += (double)p[i] * (double)p[i];                       \
        for (int j = 0; j < 8; j++) *total += sum[j];                                          \
    }                                                                                          \
                                                                                               \
    static void optim_scale_##S(const ck_optim_slice *s, const ck_optim_settings *settings) {  \
        T *p = s->param;                                                                       \
        const T factor = (T)settings->scale;                                                   \
        for (ptrdiff_t i = 0; i < s->count; i++) p[i] *= factor;                               \
    }

OPTIM_TEMPLATE(float, f, sqrtf)
OPTIM_TEMPLATE(double, d, sqrt)

static const ck_optim_table optim_table = {
    .sgd = {optim_sgd_f, optim_sgd_d},
    .adam = {optim_adam_f, optim_adam_d},
    .adagrad = {optim_adagrad_f, optim_adagrad_d},
    .adadelta = {optim_adadelta_f, optim_adadelta_d},
    .rmsprop = {optim_rmsprop_f, optim_rmsprop_d},
    .squares = {optim_squares_f, optim_squares_d},
    .scale = {optim_scale_f, optim_scale_d},
};
