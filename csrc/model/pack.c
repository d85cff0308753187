#include "pack.h"

#include <string.h>

#include "../base/memory.h"
#include "../base/status.h"

flm_status flm_pack_check(const flm_slot *slot, size_t row, size_t n_rows, const void *values, flm_dtype dtype,
                          flm_error *error) {
    if (dtype < FLM_DTYPE_F32 || dtype > FLM_DTYPE_BF16)
        return flm_fail(error, FLM_ERR_ARGUMENT, "%s: unknown dtype %d", slot->name, (int)dtype);
    if (!values) return flm_fail(error, FLM_ERR_ARGUMENT, "%s: values is NULL", slot->name);
    if (n_rows == 0 || row > slot->rows || n_rows > slot->rows - row)
        return flm_fail(error, FLM_ERR_ARGUMENT, "%s: rows %zu + %zu are outside of its %u rows", slot->name, row,
                        n_rows, (unsigned)slot->rows);
    if (slot->is_matrix && (row % FLM_STRIP || (n_rows % FLM_STRIP && row + n_rows != slot->rows)))
        return flm_fail(error, FLM_ERR_ARGUMENT, "%s: rows must come in multiples of 16", slot->name);
    return FLM_OK;
}

flm_status flm_pack_begin(flm_pack_job *job, unsigned n_threads, flm_error *error) {
    const flm_slot *slot = job->slot;
    if (!job->kernels->product[slot->format].quantize_strip) return FLM_OK;
    job->columns = flm_alloc_array(n_threads, FLM_STRIP * flm_padded_cols(slot->cols) * sizeof(float));
    if (job->columns) return FLM_OK;
    return flm_fail(error, FLM_ERR_MEMORY, "%s: out of memory to quantise it", slot->name);
}

static float to_float(const unsigned char *value, flm_dtype dtype) {
    uint16_t half;
    float f;
    if (dtype == FLM_DTYPE_F32) {
        memcpy(&f, value, sizeof f);
        return f;
    }
    memcpy(&half, value, sizeof half);
    return dtype == FLM_DTYPE_F16 ? flm_f16_to_f32(half) : flm_bf16_to_f32(half);
}

/* Each thread packs a range of whole strips, so no two write the same cache line. Vectors are short: thread 0 packs
 * them. */
void flm_pack_team(void *argument, unsigned thread, unsigned n_threads) {
    flm_pack_job *job = argument;
    const flm_slot *slot = job->slot;
    size_t row_bytes = flm_dtype_bytes(job->dtype) * slot->cols;
    /* Each thread reports in its own element; a thread without rows reports success. */
    job->all_finite[thread] = 1;
    if (slot->is_matrix) {
        /* The thread's range of strips, as rows of the job. */
        size_t strips = flm_strips(job->n_rows), first = strips * thread / n_threads * FLM_STRIP;
        size_t last = strips * (thread + 1) / n_threads * FLM_STRIP;
        if (last > job->n_rows) last = job->n_rows;
        if (first >= last) return;
        size_t strip = (job->row + first) / FLM_STRIP, padded = flm_padded_cols(slot->cols);
        unsigned char *dst = slot->data + strip * flm_strip_bytes(slot->format, slot->cols);
        const unsigned char *values = job->values + first * row_bytes;
        job->all_finite[thread] =
            job->columns
                ? flm_matrix_quantize(job->kernels->product[slot->format].quantize_strip, slot->format, dst, values,
                                      job->dtype, last - first, slot->cols, job->columns + thread * FLM_STRIP * padded)
                : flm_matrix_pack(slot->format, dst, values, job->dtype, last - first, slot->cols);
    } else if (thread == 0) {
        float *out = (float *)slot->data + job->row * slot->cols;
        for (size_t i = 0; i < job->n_rows * slot->cols; i++) {
            out[i] = to_float(job->values + i * flm_dtype_bytes(job->dtype), job->dtype);
            if (!(out[i] - out[i] == 0.0f)) job->all_finite[0] = 0;
        }
    }
}

/* Records for each unit of a slot (strip of a matrix, row of vectors) whether it is loaded. */
static void note_rows(flm_slot *slot, size_t row, size_t n_rows, int loaded) {
    const size_t unit = slot->is_matrix ? FLM_STRIP : 1;
    for (size_t i = row / unit; i * unit < row + n_rows; i++) slot->loaded[i] = (unsigned char)loaded;
}

flm_status flm_pack_end(flm_pack_job *job, unsigned n_ran, flm_error *error) {
    int all_finite = 1;
    for (unsigned t = 0; t < n_ran; t++) all_finite &= job->all_finite[t];
    flm_free(job->columns);
    note_rows(job->slot, job->row, job->n_rows, all_finite);
    if (all_finite) return FLM_OK;
    return flm_fail(error, FLM_ERR_FORMAT, "%s: has a value that is NaN, infinite or too large for its format",
                    job->slot->name);
}
