"""C declarations of the kernel table, for the other extension modules."""

from libc.stdint cimport int64_t, uint16_t

cdef extern from "table.h" nogil:
    ctypedef struct ck_gemm_table
    ctypedef struct ck_depthwise_table
    int CK_ACT_UNARY
    int CK_RELU, CK_RELU6, CK_LEAKY_RELU, CK_ELU, CK_SIGMOID, CK_TANH, CK_SILU, CK_GELU
    int CK_GELU_TANH, CK_HARDSWISH, CK_HARDSIGMOID, CK_ERF, CK_HARDTANH, CK_SELU, CK_CELU
    int CK_SOFTPLUS, CK_LOGSIGMOID, CK_SOFTSIGN, CK_MISH
    ctypedef void (*ck_unary_fn)(const void* x, void* y, Py_ssize_t n, double a,
                                 double b) noexcept nogil
    ctypedef void (*ck_unary_grad_fn)(const void* gy, const void* saved, void* gx, Py_ssize_t n,
                                      double a, double b) noexcept nogil
    ctypedef void (*ck_add_fn)(const void* a, const void* b, void* y, Py_ssize_t n,
                               int activation, double alpha, double beta) noexcept nogil
    int CK_ADD, CK_SUB, CK_MUL, CK_DIV
    ctypedef struct ck_binary_rows:
        const void* a
        const void* b
        void* y
        Py_ssize_t rows, n, row_a, row_b
        int step_a, step_b
    ctypedef void (*ck_binary_fn)(const ck_binary_rows* block) noexcept nogil
    ctypedef struct ck_elementwise_table:
        ck_unary_fn unary[2][19]
        ck_unary_grad_fn unary_grad[2][19]
        ck_add_fn add[2]
        ck_binary_fn binary[2][4]

    ctypedef void (*ck_moments_fn)(const void* x, Py_ssize_t rows, Py_ssize_t columns,
                                   double* mean, double* squares) noexcept nogil
    ctypedef void (*ck_merge_moments_fn)(
        double* mean_a, double* squares_a, double count_a, const double* mean_b,
        const double* squares_b, double count_b, Py_ssize_t columns) noexcept nogil
    ctypedef void (*ck_affine_fn)(
        const void* x, const void* residual, void* y, Py_ssize_t rows, Py_ssize_t columns,
        const void* center, const void* scale, const void* shift, int activation, double alpha,
        double beta) noexcept nogil
    ctypedef void (*ck_grad_sums_fn)(
        const void* gy, const void* x, Py_ssize_t rows, Py_ssize_t columns, const void* center,
        double* sum, double* product) noexcept nogil
    ctypedef void (*ck_grad_input_fn)(
        const void* gy, const void* x, void* gx, Py_ssize_t rows, Py_ssize_t columns,
        const void* center, const void* scale, const void* slope,
        const void* shift) noexcept nogil
    ctypedef void (*ck_prelu_fn)(const void* x, const void* w, void* y, Py_ssize_t rows,
                                 Py_ssize_t columns) noexcept nogil
    ctypedef void (*ck_prelu_grad_fn)(
        const void* gy, const void* x, const void* w, void* gx, double* gw, Py_ssize_t rows,
        Py_ssize_t columns) noexcept nogil
    ctypedef struct ck_norm_masked:
        const void* gy
        const void* x
        const void* y
        const void* center
        const void* scale
        const void* shift
        void* out
        double low, high
        int gy_half, out_half, stream
    ctypedef void (*ck_masked_sums_fn)(
        const ck_norm_masked*, Py_ssize_t rows, Py_ssize_t columns, double* sum,
        double* product) noexcept nogil
    ctypedef void (*ck_masked_input_fn)(
        const ck_norm_masked*, Py_ssize_t rows, Py_ssize_t columns, const void* factor,
        const void* slope, const void* offset) noexcept nogil
    ctypedef struct ck_norm_kept:
        const float* x
        const void* residual
        uint16_t* kept
        uint16_t* rounded
        float* y
        const float* center
        const float* scale
        const float* shift
        float low, high
        int residual_half, rounds, stream
    ctypedef struct ck_norm_table:
        ck_moments_fn moments[2]
        ck_merge_moments_fn merge_moments
        ck_affine_fn affine[2]
        ck_grad_sums_fn grad_sums[2]
        ck_grad_input_fn grad_input[2]
        ck_masked_sums_fn masked_sums[3]
        ck_masked_input_fn masked_input[3]
        void (*affine_kept)(const ck_norm_kept*, Py_ssize_t rows, Py_ssize_t columns) noexcept nogil
        void (*narrow)(const float* x, uint16_t* y, Py_ssize_t n) noexcept nogil
        void (*widen)(const uint16_t* x, float* y, Py_ssize_t n) noexcept nogil
        ck_prelu_fn prelu[2]
        ck_prelu_grad_fn prelu_grad[2]

    ctypedef struct ck_gather_args:
        const void* y
        Py_ssize_t rows, cols, row_step, pixel_step, channels
        int begin, halves
        void* shift
        double* sum
        double* square
    ctypedef void (*ck_gather_add_fn)(const ck_gather_args*) noexcept nogil
    ctypedef void (*ck_gather_merge_fn)(
        double* mean, double* squares, double before, const void* shift, const double* sum,
        const double* square, double count, Py_ssize_t channels) noexcept nogil
    ctypedef struct ck_gather_table:
        ck_gather_add_fn add[2]
        ck_gather_merge_fn merge[2]

    ctypedef struct ck_cross_entropy:
        Py_ssize_t classes
        const void* x
        const int64_t* target
        const void* probabilities
        const void* weight
        int64_t ignore
        double smoothing
        void* most
        void* log_sum
        void* losses
        const void* gy
        double factor
        void* gx
        void* g_probabilities
    ctypedef void (*ck_cross_entropy_fn)(const ck_cross_entropy* args, Py_ssize_t begin,
                                         Py_ssize_t end, double* sums) noexcept nogil
    ctypedef void (*ck_cross_entropy_grad_fn)(const ck_cross_entropy* args, Py_ssize_t begin,
                                              Py_ssize_t end) noexcept nogil
    int CK_LOSS_MSE, CK_LOSS_BCE_LOGITS, CK_LOSS_BCE, CK_LOSS_L1, CK_LOSS_HUBER
    int CK_LOSS_SMOOTH_L1, CK_LOSS_KL, CK_LOSS_KL_LOG, CK_LOSS_HINGE, CK_LOSS_FOCAL
    ctypedef struct ck_pointwise:
        const void* x
        const void* target
        const void* weight
        const void* pos_weight
        double a, b
        void* losses
        const void* gy
        double factor
        void* gx
        void* g_target
    ctypedef double (*ck_pointwise_fn)(const ck_pointwise* args, Py_ssize_t begin,
                                       Py_ssize_t end) noexcept nogil
    ctypedef void (*ck_pointwise_grad_fn)(const ck_pointwise* args, Py_ssize_t begin,
                                          Py_ssize_t end) noexcept nogil
    ctypedef struct ck_loss_table:
        ck_cross_entropy_fn cross_entropy[2]
        ck_cross_entropy_grad_fn cross_entropy_grad[2]
        ck_pointwise_fn pointwise[2][10]
        ck_pointwise_grad_fn pointwise_grad[2][10]

    ctypedef void (*ck_softmax_fn)(const void* x, void* y, Py_ssize_t rows,
                                   Py_ssize_t length) noexcept nogil
    ctypedef void (*ck_softmax_grad_fn)(const void* gy, const void* y, void* gx, Py_ssize_t rows,
                                        Py_ssize_t length) noexcept nogil
    ctypedef struct ck_softmax_table:
        ck_softmax_fn softmax[2]
        ck_softmax_fn log_softmax[2]
        ck_softmax_grad_fn softmax_grad[2]
        ck_softmax_grad_fn log_softmax_grad[2]

    int CK_TRANSPOSE_MAX
    int CK_TRANSPOSE_BYTES
    ctypedef struct ck_transpose_table:
        void (*to_vectors[2])(const void* source, Py_ssize_t step, int rows, int count,
                              void* const* targets) noexcept nogil
        void (*from_vectors[2])(const void** sources, Py_ssize_t parts,
                                Py_ssize_t part_step, int rows, int count, void* target,
                                Py_ssize_t step) noexcept nogil
        void (*small[2])(const char* source, Py_ssize_t source_step, char* target,
                         Py_ssize_t target_step) noexcept nogil

    ctypedef struct ck_fold_table
    ctypedef struct ck_optim_table
    ctypedef struct ck_pool_table
    ctypedef struct ck_resample_table
    ctypedef struct ck_rownorm_table
    ctypedef struct ck_winograd_table
    ctypedef struct ck_winograd_kernels
    ctypedef struct ck_augment_table
    ctypedef struct ck_int8_kernels
    ctypedef struct ck_quant_table
    ctypedef struct ck_tile_table
    ctypedef struct ck_tilegrad_table
    ctypedef struct ck_table:
        const char* name
        int vector_bytes
        const ck_gemm_table* gemm
        const ck_depthwise_table* depthwise
        const ck_elementwise_table* elementwise
        const ck_fold_table* fold
        const ck_loss_table* loss
        const ck_gather_table* gather
        const ck_norm_table* norm
        const ck_optim_table* optim
        const ck_pool_table* pool
        const ck_quant_table* quant
        const ck_resample_table* resample
        const ck_rownorm_table* rownorm
        const ck_softmax_table* softmax
        const ck_transpose_table* transpose
        const ck_winograd_table* winograd
        const ck_augment_table* augment
        const ck_int8_kernels* int8
        const ck_int8_kernels* int8_vnni
        const ck_int8_kernels* int8_tile
        const ck_tile_table* tile
        const ck_tile_table* half
        const ck_tilegrad_table* tilegrad
        const ck_winograd_kernels* winograd_tile
        const ck_winograd_kernels* winograd_vnni

# The table chosen at import; never NULL.
cdef const ck_table* table() noexcept nogil


# The function that a fused activation is, NULL where it is none (those below CK_ACT_UNARY).
cdef inline ck_unary_fn activation_map(int activation, bint double_) noexcept nogil:
    if activation < CK_ACT_UNARY:
        return NULL
    return table().elementwise.unary[double_][activation - CK_ACT_UNARY]

