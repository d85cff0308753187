/* A spec of any bytes, after a byte that says how its weights look: the model is built and runs, or is refused. */
#include "fuzz.h"

enum { MOST_WEIGHTS = 1 << 18 };

static float weight(unsigned kind, uint64_t i) {
    const float values[] = {0.0f, 1.0f, -1e-30f, 3e38f, 1e30f, -0.03f, 0.5f, 65504.0f};
    return kind < 8 ? (float)(i * 2654435761u % 1000) * 1e-3f - 0.5f : values[(i + kind) % 8];
}

static uint64_t count_weights(const flm_model *model) {
    uint64_t total = 0;
    for (size_t i = 0; i < flm_model_tensor_count(model) && total <= MOST_WEIGHTS; i++) {
        flm_tensor t;
        CHECK(flm_model_tensor(model, i, &t, NULL) == FLM_OK);
        total += (uint64_t)t.rows * t.cols;
    }
    return total;
}

static flm_status load(flm_model *model, unsigned kind, flm_error *error) {
    static float values[MOST_WEIGHTS];
    flm_status status = FLM_OK;
    for (size_t i = 0; i < flm_model_tensor_count(model) && status == FLM_OK; i++) {
        flm_tensor t;
        CHECK(flm_model_tensor(model, i, &t, error) == FLM_OK);
        for (uint64_t j = 0; j < (uint64_t)t.rows * t.cols; j++) values[j] = weight(kind, j + i);
        status = flm_model_load_rows(model, i, 0, t.rows, values, FLM_DTYPE_F32, error);
    }
    return status == FLM_OK ? flm_model_finish(model, error) : status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const unsigned kind = size ? data[0] & 15 : 0, format = size ? 1 + (data[0] >> 4) % 5 : 1;
    const flm_model_options options = {.size_bytes = sizeof options,
                                       .format = (flm_format)format,
                                       .kv_bytes = 1 << 20,
                                       .context = 64};
    flm_model *model = NULL;
    flm_error error;
    if (size == 0) return 0;
    flm_status status = flm_model_create(fuzz_context(), data + 1, size - 1, &options, &model, &error);
    CHECK((status == FLM_OK) == (model != NULL) && (status == FLM_OK || error.text[0]));
    if (model && count_weights(model) <= MOST_WEIGHTS && load(model, kind, &error) == FLM_OK)
        use_model(model, kind, &error);
    flm_model_destroy(model);
    return 0;
}
