/* Updates of parameters: one pass that reads gradient and state once and writes parameter
   and state once. Memory sets the speed, so these are plain loops that the compiler
   vectorises; what does not change from element to element is decided outside of them. */

#define OPTIM_TEMPLATE(T, S, SQRT)                                                             \
    static void optim_sgd_##S(const ck_optim_slice *s, const ck_sgd_settings *o) {             \
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
    static void optim_adam_##S(const ck_optim_slice *s, const ck_adam_settings *o) {           \
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
    }

OPTIM_TEMPLATE(float, f, sqrtf)
OPTIM_TEMPLATE(double, d, sqrt)

static const ck_optim_table optim_table = {
    .f32 = {.sgd = optim_sgd_f, .adam = optim_adam_f},
    .f64 = {.sgd = optim_sgd_d, .adam = optim_adam_d},
};
