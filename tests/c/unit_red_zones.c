/* Touches the last byte of a part of a block (PAST 0) or the first one after it (PAST 1), where the next part of the
 * same block would lie without red zones. usage: unit_red_zones CASE FILE.flm PAST. Build with the address sanitizer.
 */
#include "check.h"
#include "cache/page_table.h"
#include "engine/engine.h"
#include "engine/session.h"
#include "model/model.h"
#include "plan/plan.h"
#include "run/scratch.h"
#include "base/memory.h"

static size_t past;

static void touch(unsigned char *part, size_t n_bytes) { ((volatile unsigned char *)part)[n_bytes - 1 + past] = 1; }

/* A step's queries run into its keys. */
static void scratch(flm_model *m) {
    enum { TOKENS = 5 };
    flm_scratch *s = NULL;
    CHECK(flm_scratch_reserve(m, &s, TOKENS, 1, 0, 1, NULL) == FLM_OK && s->stride[FLM_BUF_Q] > 0);
    touch((unsigned char *)s->buffer[FLM_BUF_Q], TOKENS * s->stride[FLM_BUF_Q] * sizeof(float));
    flm_scratch_destroy(s);
}

/* One weight slot into the next. */
static void weights(flm_model *m) {
    flm_model_options options = {.size_bytes = sizeof options, .format = FLM_FORMAT_F32};
    flm_model *filled;
    static const float zeros[1 << 16];
    CHECK(flm_model_create(m->context, m->spec_blob, m->spec_bytes, &options, &filled, NULL) == FLM_OK);
    const flm_slot *slot = &filled->slots[0];
    CHECK(flm_model_load_rows(filled, 0, 0, slot->rows, zeros, FLM_DTYPE_F32, NULL) == FLM_OK);
    touch(slot->data, slot->bytes);
    flm_model_destroy(filled);
}

/* One page into the next. */
static void pages(flm_model *m) {
    (void)m;
    flm_kv_pool *pool;
    flm_page_table table = {0};
    CHECK(flm_kv_pool_create(256, 4, &pool, NULL) == FLM_OK);
    CHECK(flm_page_table_reserve(pool, &table, 0, 2 * FLM_PAGE, NULL) == FLM_OK);
    touch(table.pages[0], 256);
    flm_page_table_truncate(pool, &table, 0);
    flm_kv_pool_destroy(pool);
}

/* A head's keys into its values. */
static void areas(flm_model *m) {
    const int32_t tokens[] = {3, 4, 5};
    flm_session *session;
    CHECK(flm_session_create(m, &session, NULL) == FLM_OK);
    flm_item item = {.session = session, .tokens = tokens, .n_tokens = 3};
    CHECK(flm_forward(m, &item, 1, NULL, NULL) == FLM_OK);
    const flm_attention_spec *a = &m->spec.decoder.layers[0].sublayers[0].mixer.attention;
    touch(session->self.pages[0], flm_kv_area_bytes(m->kv_dtype, a->head_dim));
    flm_session_destroy(session);
}

/* A block of more than a megabyte, which is a mapping of its own without the sanitizer. */
static void blocks(flm_model *m) {
    (void)m;
    const size_t n = (3u << 20) + 5;
    unsigned char *block = flm_alloc(n);
    touch(block, n);
    flm_free(block);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(flm_model *m);
    } cases[] = {{"scratch", scratch}, {"weights", weights}, {"pages", pages}, {"areas", areas}, {"blocks", blocks}};
    CHECK(argc == 4);
    past = argv[3][0] == '1';
    flm_context *context;
    flm_model *model;
    CHECK(flm_context_create(NULL, &context, NULL) == FLM_OK);
    CHECK(flm_model_open(context, argv[2], NULL, &model, NULL) == FLM_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (strcmp(argv[1], cases[i].name) == 0) cases[i].run(model);
    flm_model_destroy(model);
    flm_context_destroy(context);
    return 0;
}
