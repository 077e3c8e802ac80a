/* The form of A for instructions that read bytes as they are. */
static void int8_prepare_bytes(const uint8_t *a, ptrdiff_t lda, ptrdiff_t rows, ptrdiff_t k,
                               ptrdiff_t padded, int flip, void *out) {
    uint8_t *bytes = out;
    for (ptrdiff_t m = 0; m < rows; m++, a += lda, bytes += padded) {
        for (ptrdiff_t i = 0; i < k; i++) bytes[i] = (uint8_t)(a[i] ^ flip);
        memset(bytes + k, 0, (size_t)(padded - k));
    }
}
