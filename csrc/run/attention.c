/* Attention as a sublayer: finish_qkv (norms, rope, storing keys and values) and attend. */
#include <string.h>

#include "../base/sanitizer.h"
#include "../model/spec_read.h"
#include "run.h"

enum { TOKEN_TILE = 16 }; /* tokens of one attention job: enough to share loads of keys and values */

static void finish_head(const flm_run *run, const flm_attention_op *s, const flm_norm *norm, float *x, size_t t) {
    if (!s->norm_whole && norm->kind) flm_norm_row(run, norm, t, x, x);
    if (s->rope < 0) return;
    size_t pairs = run->plan->ropes[s->rope]->n_pairs;
    run->kernels->rope(x, run->scratch->cosine[s->rope] + t * pairs, run->scratch->sine[s->rope] + t * pairs, pairs);
}

static const float zeros[FLM_MAX_HEAD_DIM];

typedef struct areas { /* of a K/V head in a page */
    unsigned char *keys, *values;
} areas;

static areas areas_of(const flm_attention_op *s, unsigned char *page, uint32_t head) {
    return (areas){page + s->kv.k_offset + head * s->kv.head_bytes, page + s->kv.v_offset + head * s->kv.head_bytes};
}

/* With the address sanitizer a red zone follows each area; made at every store, because copying a page unpoisons it,
 * and layers that share a page may have their areas elsewhere in it. */
static void surround(areas to, size_t area_bytes) {
    FLM_UNPOISON(to.keys, area_bytes);
    FLM_UNPOISON(to.values, area_bytes);
    FLM_POISON(to.keys + area_bytes, FLM_RED_ZONE);
    FLM_POISON(to.values + area_bytes, FLM_RED_ZONE);
}

/* Copies keys of positions [first, n) of a page, and of those before them in the same line of 16. A line's other
 * positions are left alone: another thread may be storing them. */
static void copy_keys(unsigned char *to, const unsigned char *from, flm_dtype kv_dtype, size_t head_dim, size_t first,
                      size_t n) {
    const size_t lines = kv_dtype == FLM_DTYPE_F32 ? head_dim : (head_dim + 1) / 2;
    const size_t lane = kv_dtype == FLM_DTYPE_I8 ? 2 : 4, line = FLM_STRIP * lane;
    const size_t at = first / FLM_STRIP * lines * line, whole = n / FLM_STRIP * lines * line;
    if (whole > at) memcpy(to + at, from + at, whole - at);
    for (size_t i = 0; i < lines && n % FLM_STRIP; i++)
        memcpy(to + whole + i * line, from + whole + i * line, n % FLM_STRIP * lane);
}

/* The same of values, which are in pairs of positions but for float32. */
static void copy_values(unsigned char *to, const unsigned char *from, flm_dtype kv_dtype, size_t head_dim, size_t first,
                        size_t n) {
    const size_t element = kv_dtype == FLM_DTYPE_F32 ? 4 : kv_dtype == FLM_DTYPE_BF16 ? 2 : 1;
    const size_t together = kv_dtype == FLM_DTYPE_F32 ? 1 : 2;
    const size_t row = together * head_dim * element, at = first / together * row, whole = n / together * row;
    if (whole > at) memcpy(to + at, from + at, whole - at);
    for (size_t i = 0; i < head_dim && n % together; i++)
        memcpy(to + whole + i * together * element, from + whole + i * together * element, element);
}

/* Copies what a forked entry has of a page that another sequence fills on. */
static void copy_fork(const flm_run *run, const flm_attention_op *s, const flm_row_item *item, areas to,
                      uint32_t head) {
    const areas from = areas_of(s, (unsigned char *)item->fork, head);
    const flm_dtype kv_dtype = run->model->kv_dtype;
    const size_t first = item->fork_from, n = item->start % FLM_PAGE, scales = flm_kv_scales_at(s->head_dim);
    copy_keys(to.keys, from.keys, kv_dtype, s->head_dim, first, n);
    copy_values(to.values, from.values, kv_dtype, s->head_dim, first, n);
    for (size_t i = first; i < n && kv_dtype == FLM_DTYPE_I8; i++) {
        const size_t at = scales + i * sizeof(float);
        memcpy(to.keys + at, from.keys + at, sizeof(float));
        memcpy(to.values + at, from.values + at, sizeof(float));
    }
}

/* Rounds the keys and values of tokens [t, t + n) and one K/V head into the page of their positions. */
static void store_run(const flm_run *run, const flm_attention_op *s, const flm_row_item *item, size_t t, size_t n,
                      uint32_t head) {
    const flm_page_table *table = s->source_kv ? item->cross_kv : item->self;
    const uint32_t position = run->scratch->position[t], end = position + (uint32_t)n;
    const areas to = areas_of(s, table->pages[position / FLM_PAGE], head);
    const flm_dtype kv_dtype = run->model->kv_dtype;
    const size_t column = (size_t)head * s->head_dim;
    surround(to, flm_kv_area_bytes(kv_dtype, s->head_dim));
    if (item->fork) copy_fork(run, s, item, to, head);
    run->kernels->kv_store(to.keys, to.values, kv_dtype, position % FLM_PAGE, n, flm_row(run, FLM_BUF_K, t) + column,
                           flm_row(run, FLM_BUF_V, t) + column, flm_stride(run, FLM_BUF_K), s->head_dim);
    /* Zeros behind the last position, up to where attention reads. */
    if (item->reuses && !s->source_kv && end == item->n_keys && end % FLM_KV_CHUNK)
        run->kernels->kv_store(to.keys, to.values, kv_dtype, end % FLM_PAGE, FLM_KV_CHUNK - end % FLM_KV_CHUNK, zeros,
                               zeros, 0, s->head_dim);
}

/* The same for tokens of any entries and pages. */
static void store_tokens(const flm_run *run, const flm_attention_op *s, size_t t, size_t n, uint32_t head) {
    for (size_t end = t + n, count; t < end; t += count) {
        const flm_row_item *item = &run->step->items[run->scratch->item_of[t]];
        const uint32_t position = run->scratch->position[t], left = item->start + item->n_tokens - position;
        count = FLM_PAGE - position % FLM_PAGE < left ? FLM_PAGE - position % FLM_PAGE : left;
        if (count > end - t) count = end - t;
        store_run(run, s, item, t, count, head);
    }
}

/* The attention whose keys and values operation i of the decoder stores in its own pages; NULL: none. */
static const flm_attention_op *stored_by(const flm_plan *plan, size_t i) {
    const flm_attention_op *s = &plan->ops[i].as.attention;
    return plan->ops[i].kind == FLM_OP_FINISH_QKV && !s->cross ? s : NULL;
}

void flm_step_clear(const flm_model *model, unsigned char *page, uint32_t from, uint32_t to) {
    const flm_plan *plan = model->decoder_plan;
    for (size_t i = 0; i < plan->n_ops; i++) {
        const flm_attention_op *s = stored_by(plan, i);
        for (uint32_t head = 0; s && head < s->kv_heads; head++) {
            const areas at = areas_of(s, page, head);
            model->kernels->kv_store(at.keys, at.values, model->kv_dtype, from, to - from, zeros, zeros, 0,
                                     s->head_dim);
        }
    }
}

/* Norms over a whole projection, by token. */
void flm_prepare_qkv(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_attention_op *s = &op->as.attention;
    const size_t n = run->n_tokens;
    for (size_t t = flm_share_begin(share, n); t < flm_share_end(share, n); t++) {
        float *q = flm_row(run, FLM_BUF_Q, t), *k = flm_row(run, FLM_BUF_K, t);
        if (s->q_norm.kind && !s->source_kv) flm_norm_row(run, &s->q_norm, t, q, q);
        if (s->k_norm.kind && (!s->cross || s->source_kv)) flm_norm_row(run, &s->k_norm, t, k, k);
    }
}

/* Units of work are (entry, tile of its tokens, K/V head). They are dealt round-robin, because later tiles see more
 * keys; unless they are so few that they do not divide evenly. */
static int dealt_evenly(const flm_attention_op *s, size_t tiles, unsigned n_threads) {
    const size_t units = tiles * s->kv_heads;
    return units >= 4 * (size_t)n_threads || units % n_threads == 0;
}

int flm_heads_are_owned(const flm_run *run, const flm_attention_op *s, unsigned n_threads) {
    return run->single_tokens && !s->cross && !s->norm_whole && dealt_evenly(s, run->n_tokens, n_threads);
}

/* Queries, keys and values of tokens [t, t + n) and one K/V head. */
static void finish_tokens(const flm_run *run, const flm_attention_op *s, size_t t, size_t n, uint32_t head) {
    const uint32_t group = s->heads / s->kv_heads;
    const int stores = !s->cross || s->source_kv,
              is_plain = s->rope < 0 && (s->norm_whole || !s->q_norm.kind) && (s->norm_whole || !s->k_norm.kind);
    for (size_t i = t; i < t + n && !is_plain; i++) {
        float *q = flm_row(run, FLM_BUF_Q, i) + (size_t)head * group * s->head_dim;
        for (uint32_t g = 0; g < group && !s->source_kv; g++)
            finish_head(run, s, &s->q_norm, q + (size_t)g * s->head_dim, i);
        if (stores) finish_head(run, s, &s->k_norm, flm_row(run, FLM_BUF_K, i) + (size_t)head * s->head_dim, i);
    }
    if (stores) store_tokens(run, s, t, n, head);
}

/* Single tokens go round-robin; else a thread has a range of tokens, head by head, because neighbouring positions are
 * stored together. */
void flm_run_finish_qkv(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_attention_op *s = &op->as.attention;
    const size_t tokens = run->n_tokens, units = tokens * s->kv_heads;
    for (size_t unit = share.index; run->single_tokens && unit < units; unit += share.of)
        finish_tokens(run, s, unit / s->kv_heads, 1, (uint32_t)(unit % s->kv_heads));
    if (run->single_tokens) return;
    const size_t end = flm_share_end(share, units);
    for (size_t unit = flm_share_begin(share, units), n; unit < end; unit += n) {
        const size_t t = unit % tokens;
        n = end - unit < tokens - t ? end - unit : tokens - t;
        finish_tokens(run, s, t, n, (uint32_t)(unit / tokens));
    }
}

/* Keys of a row of captured probabilities. */
static size_t captured_keys(const flm_attention_op *s, const flm_row_item *item) {
    return s->cross ? item->n_cross : item->attention_keys;
}

/* Where the captured probabilities of this layer go, from head `head` and token `index` of the entry on; NULL: not
 * wanted. */
static float *capture_at(const flm_attention_op *s, const flm_row_item *item, size_t head, size_t index) {
    float *to = s->cross ? item->cross_attentions : item->attentions;
    if (!to) return NULL;
    return to + (((size_t)s->first_capture + head) * item->attention_rows + item->attention_row0 + index) *
                    captured_keys(s, item);
}

static const float *vectors_of(const flm_run *run, const flm_attention_op *s, const float *table, uint32_t head) {
    return table ? table + (size_t)head * s->head_dim * run->plan->relative_buckets : NULL;
}

/* A tile of tokens that attend together: some of an entry; or, where places do not matter, those of entries with one
 * token each that attend to one source. */
typedef struct tile {
    uint32_t item, index; /* the first token's entry, and its place in that */
    size_t token;
    uint32_t count, n_items;
} tile;

static int is_placeless(const flm_attention_op *s) {
    return s->cross && !s->causal && !s->window && !s->alibi && !s->relative;
}

static int attends_with(const flm_row_item *a, const flm_row_item *b) {
    return a->n_tokens == 1 && b->n_tokens == 1 && a->cross_kv == b->cross_kv && !a->cross_attentions &&
           !b->cross_attentions;
}

/* The tile that begins where *tile does; 0: there is none. */
static int take_tile(const flm_run *run, const flm_attention_op *s, tile *tile) {
    const flm_step *step = run->step;
    if (tile->item == step->n_items) return 0;
    const flm_row_item *item = &step->items[tile->item];
    const uint32_t left = item->n_tokens - tile->index;
    tile->count = left < TOKEN_TILE ? left : TOKEN_TILE;
    tile->n_items = tile->count == left;
    while (is_placeless(s) && tile->count < TOKEN_TILE && tile->item + tile->n_items < step->n_items &&
           attends_with(item, &step->items[tile->item + tile->n_items]))
        tile->count++, tile->n_items++;
    return 1;
}

static void next_tile(tile *tile) {
    tile->token += tile->count;
    tile->index = tile->n_items ? 0 : tile->index + tile->count;
    tile->item += tile->n_items;
}

/* A tile, with query heads [head, head + group) of one K/V head. */
static flm_attention_job job_of(const flm_run *run, const flm_attention_op *s, const tile *tile, uint32_t head,
                                uint32_t group, unsigned thread) {
    const flm_row_item *item = &run->step->items[tile->item];
    /* Grouped-query attention: `group` consecutive query heads share a K/V head. */
    uint32_t kv_head = head / (s->heads / s->kv_heads);
    return (flm_attention_job){
        .q = flm_row(run, FLM_BUF_Q, tile->token) + (size_t)head * s->head_dim,
        .out = flm_row(run, FLM_BUF_ATTENDED, tile->token) + (size_t)head * s->head_dim,
        .q_stride = flm_stride(run, FLM_BUF_Q),
        .out_stride = flm_stride(run, FLM_BUF_ATTENDED),
        .n_tokens = tile->count,
        .group = group,
        .head_dim = s->head_dim,
        .first = item->start + tile->index,
        .n_keys = s->cross ? item->n_cross : item->n_keys,
        .window = s->window,
        .causal = s->causal,
        .scale = s->scale,
        .softcap = s->softcap,
        .alibi = s->alibi ? s->alibi + head : NULL,
        .relative = s->relative ? s->relative + (size_t)head * run->plan->relative_buckets : NULL,
        .bucket = run->plan->bucket,
        .relative_buckets = run->plan->relative_buckets,
        .relative_reach = run->plan->relative_reach,
        .relative_keys = vectors_of(run, s, s->relative_keys, head),
        .relative_queries = vectors_of(run, s, s->relative_queries, head),
        .pages = s->cross ? item->cross_kv->pages : item->self->pages,
        .k_offset = s->kv.k_offset + kv_head * s->kv.head_bytes,
        .v_offset = s->kv.v_offset + kv_head * s->kv.head_bytes,
        .kv_dtype = run->model->kv_dtype,
        .scratch = run->scratch->attention_scratch + thread * run->scratch->attention_floats,
        .probabilities = capture_at(s, item, head, tile->index),
        .prob_head_stride = item->attention_rows * captured_keys(s, item),
        .prob_stride = captured_keys(s, item),
    };
}

/* The keys that a job reads first. */
static const unsigned char *first_keys(const flm_attention_job *job) {
    const uint32_t hidden = job->window && job->first >= job->window ? job->first - job->window + 1 : 0;
    return job->pages[hidden < job->n_keys ? hidden / FLM_PAGE : 0] + job->k_offset;
}

/* Deals the units round-robin. If they do not divide evenly, each thread takes an equal range of the query heads of
 * all tiles instead: bits do not depend on which heads share a job. */
void flm_run_attend(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_attention_op *s = &op->as.attention;
    const uint32_t group = s->heads / s->kv_heads;
    size_t tiles = 0, unit = 0, first = 0; /* first: the tile's first head among those of all tiles */
    for (tile t = {0}; take_tile(run, s, &t); next_tile(&t)) tiles++;
    const size_t heads = tiles * s->heads;
    const int evenly = dealt_evenly(s, tiles, share.of);
    const size_t begin = evenly ? 0 : flm_share_begin(share, heads), end = evenly ? heads : flm_share_end(share, heads);
    flm_attention_job job = {0}; /* runs when the one after it is known */
    for (tile t = {0}; take_tile(run, s, &t); next_tile(&t))
        for (uint32_t head = 0; head < s->heads; head += group, first += group) {
            const size_t from = first > begin ? first : begin, to = first + group < end ? first + group : end;
            if ((evenly && unit++ % share.of != share.index) || from >= to) continue;
            if (flm_run_stopping(run, share.thread)) continue;
            const flm_attention_job next =
                job_of(run, s, &t, head + (uint32_t)(from - first), (uint32_t)(to - from), share.thread);
            job.next = first_keys(&next);
            if (job.n_tokens) run->kernels->attention(&job);
            job = next;
        }
    if (job.n_tokens) run->kernels->attention(&job);
}
