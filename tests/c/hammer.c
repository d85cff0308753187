/* Threads that do everything at once: create, wait for, cancel and destroy requests, fork and rewind sessions, run
 * forward and encode, open models with verify, run with adapters of their own, on two contexts with three models each.
 * Whatever the others do, greedy results must be those of a single thread.
 *
 * usage: hammer THREADS OPERATIONS SEED A.flm B.flm C.flm
 * Models: decoders and encoder-decoders without end tokens that matter (they are ignored). The models of the second
 * context have little memory for keys and values: there a call may fail with FLM_ERR_MEMORY, and must leave everything
 * as it was. Prints what was done. Some thousand operations take seconds, 2,000,000 some ten minutes. Build with
 * -Wl,--wrap=flm_is_long. */
#include <fastlm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "check.h"
#include "run/slice.h"

/* Prompts of such small models count as long, too: threads that are held up leave them, and help. */
int __wrap_flm_is_long(const flm_run *run);
int __wrap_flm_is_long(const flm_run *run) { return run->n_tokens >= 8; }

enum { N_CONTEXTS = 2, N_MODELS = 3, N_PROMPTS = 6, LONGEST = 420, WRITTEN = 12, MOST_THREADS = 64 };
enum { SOURCE = 9, FEW_PAGES = 16, PAGE = 64 };

static const size_t prompt_lengths[N_PROMPTS] = {1, 2, 17, 64, 65, LONGEST};

/* What a file's model writes after each prompt when nothing else runs. */
typedef struct subject {
    const char *path;
    flm_model_info info;
    size_t length[N_PROMPTS]; /* of the prompts: cut to the context */
    int32_t prompt[N_PROMPTS][LONGEST];
    int32_t expected[N_PROMPTS][WRITTEN], adapted[N_PROMPTS][WRITTEN]; /* adapted: with new_adapter's */
} subject;

typedef struct place {
    flm_context *context;
    flm_model *model[N_MODELS];
    int is_short; /* of memory */
} place;

/* A request that other threads may cancel or destroy: under the lock, as its owner gives it up. */
typedef struct target {
    pthread_mutex_t lock;
    flm_request *request;
} target;

typedef struct worker {
    uint64_t random;
    unsigned index;
    pthread_t thread;
} worker;

static subject subjects[N_MODELS];
static place places[N_CONTEXTS];
static target targets[MOST_THREADS];
static unsigned n_workers;
static atomic_long operations_left;
static atomic_ulong done[16], refused;

static uint64_t draw(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static size_t below(worker *w, size_t n) { return (size_t)(draw(&w->random) % n); }

/* ---- parts of operations ---------------------------------------------------------------------------------------- */

/* What an operation works with. */
typedef struct setting {
    place *place;
    const subject *subject;
    flm_model *model;
    size_t prompt;
    int adapts;
} setting;

/* Whether the call worked; a lack of memory is no fault where there is little. */
static int worked(const setting *s, flm_status status, const flm_error *error) {
    if (status == FLM_OK) return 1;
    if (status != FLM_ERR_MEMORY || !s->place->is_short) fprintf(stderr, "%s\n", error->text);
    CHECK(status == FLM_ERR_MEMORY && s->place->is_short);
    refused++;
    return 0;
}

static flm_model *open_model(flm_context *context, const char *path, uint64_t kv_bytes, uint32_t verify) {
    const flm_model_options options = {.size_bytes = sizeof options, .kv_bytes = kv_bytes, .verify = verify};
    flm_model *model = NULL;
    flm_error error;
    if (flm_model_open(context, path, &options, &model, &error)) fprintf(stderr, "%s\n", error.text);
    CHECK(model);
    return model;
}

/* Of the model's first queries; the same each time. */
static flm_adapter *new_adapter(const setting *s) {
    flm_tensor t;
    flm_adapter *adapter = NULL;
    flm_error error;
    size_t i = 0;
    do CHECK(flm_model_tensor(s->model, i++, &t, &error) == FLM_OK);
    while (!t.is_matrix || !strstr(t.name, ".0.0.q"));
    float *numbers = malloc((t.rows + t.cols) * sizeof *numbers);
    CHECK(numbers);
    for (size_t k = 0; k < t.rows + t.cols; k++) numbers[k] = (float)(k * 7919 % 1009) / 1009.0f - 0.5f;
    const flm_adapter_change change = {.site = t.name, .rank = 1, .scale = 4, .a = numbers, .b = numbers + t.cols};
    CHECK(flm_adapter_create(s->model, &change, 1, &adapter, &error) == FLM_OK);
    free(numbers);
    return adapter;
}

/* With an adapter, if the setting has one, which is unloaded at once: the session keeps it. */
static flm_session *new_session(const setting *s) {
    int32_t source[SOURCE];
    flm_session *session = NULL;
    flm_error error;
    CHECK(flm_session_create(s->model, &session, &error) == FLM_OK);
    if (s->adapts) {
        flm_adapter *adapter = new_adapter(s);
        CHECK(flm_session_set_adapter(session, adapter, &error) == FLM_OK);
        flm_adapter_destroy(adapter);
    }
    if (s->subject->info.kind != FLM_KIND_ENCODER_DECODER) return session;
    for (int i = 0; i < SOURCE; i++) source[i] = 2 + i;
    if (worked(s, flm_session_encode(session, source, SOURCE, NULL, NULL, &error), &error)) return session;
    flm_session_destroy(session);
    return NULL;
}

static flm_request *new_request(const setting *s, flm_session *session, const int32_t *ids, size_t n, uint32_t most) {
    flm_sampling sampling;
    flm_request *request = NULL;
    flm_error error;
    flm_sampling_defaults(&sampling);
    sampling.max_tokens = most;
    sampling.ignore_eos = 1;
    return worked(s, flm_request_create(session, ids, n, &sampling, &request, &error), &error) ? request : NULL;
}

static flm_request *prompted(const setting *s, flm_session *session, uint32_t most) {
    return new_request(s, session, s->subject->prompt[s->prompt], s->subject->length[s->prompt], most);
}

/* Whether the request ended as it should, having written what a single thread writes after `skipped` tokens of it. */
static int wait_for(const setting *s, flm_request *request, int wait_all, size_t skipped, flm_finish finish) {
    const int32_t *expected = (s->adapts ? s->subject->adapted : s->subject->expected)[s->prompt] + skipped;
    flm_progress progress = {.finish = FLM_FINISH_NONE};
    flm_error error;
    do {
        if (!worked(s, flm_request_wait(request, wait_all, NULL, &progress, &error), &error)) return 0;
        size_t n = progress.n_tokens < WRITTEN - skipped ? progress.n_tokens : WRITTEN - skipped;
        CHECK(memcmp(progress.tokens, expected, n * sizeof(int32_t)) == 0);
    } while (progress.finish == FLM_FINISH_NONE);
    CHECK(progress.finish == finish || progress.finish == FLM_FINISH_LENGTH);
    return 1;
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

static void generate(worker *w, const setting *s) {
    flm_session *session = new_session(s);
    flm_request *request = session ? prompted(s, session, WRITTEN) : NULL;
    if (request) wait_for(s, request, (int)below(w, 2), 0, FLM_FINISH_LENGTH);
    if (below(w, 2)) { /* either may go first: the request keeps what it needs */
        flm_session_destroy(session);
        session = NULL;
    }
    flm_request_destroy(request);
    flm_session_destroy(session);
}

static void generate_adapted(worker *w, const setting *s) {
    setting other = *s;
    other.adapts = 1;
    generate(w, &other);
}

static int ask_some_times(void *user) { return --*(int *)user <= 0; }

/* One that its own poll cancels. */
static void cancel_by_poll(worker *w, const setting *s) {
    int times = (int)below(w, 4);
    const flm_poll poll = {ask_some_times, &times};
    flm_session *session = new_session(s);
    flm_request *request = session ? prompted(s, session, 2 * WRITTEN) : NULL;
    flm_progress progress;
    flm_error error;
    if (request && worked(s, flm_request_wait(request, 1, &poll, &progress, &error), &error)) {
        size_t n = progress.n_tokens < WRITTEN ? progress.n_tokens : WRITTEN;
        CHECK(progress.finish == FLM_FINISH_CANCELLED || progress.finish == FLM_FINISH_LENGTH);
        CHECK(memcmp(progress.tokens, s->subject->expected[s->prompt], n * sizeof(int32_t)) == 0);
    }
    flm_request_destroy(request);
    flm_session_destroy(session);
}

/* One that any thread may cancel meanwhile. */
static void be_cancelled(worker *w, const setting *s) {
    flm_session *session = new_session(s);
    flm_request *request = session ? prompted(s, session, 2 * WRITTEN) : NULL;
    target *t = &targets[w->index];
    pthread_mutex_lock(&t->lock);
    t->request = request;
    pthread_mutex_unlock(&t->lock);
    if (request) wait_for(s, request, (int)below(w, 2), 0, FLM_FINISH_CANCELLED);
    pthread_mutex_lock(&t->lock);
    t->request = NULL;
    pthread_mutex_unlock(&t->lock);
    flm_request_destroy(request);
    flm_session_destroy(session);
}

static void cancel_another(worker *w, const setting *s) {
    target *t = &targets[below(w, n_workers)];
    (void)s;
    pthread_mutex_lock(&t->lock);
    if (t->request) flm_request_cancel(t->request);
    pthread_mutex_unlock(&t->lock);
}

/* A stream that nobody reads on. */
static void abandon(worker *w, const setting *s) {
    flm_session *session = new_session(s);
    flm_request *request = session ? prompted(s, session, 2 * WRITTEN) : NULL;
    flm_progress progress;
    flm_error error;
    if (request && below(w, 2)) (void)worked(s, flm_request_wait(request, 0, NULL, &progress, &error), &error);
    flm_request_destroy(request);
    flm_session_destroy(session);
}

static int destroy_once(void *user) {
    flm_request **request = user;
    flm_request_destroy(*request);
    *request = NULL;
    return 0;
}

/* A poll, which may be asked in the middle of a step, destroys a request that may be in that step. */
static void destroy_in_poll(worker *w, const setting *s) {
    flm_session *sessions[2] = {new_session(s), new_session(s)};
    flm_request *other = sessions[0] ? prompted(s, sessions[0], 2 * WRITTEN) : NULL;
    flm_request *request = sessions[1] ? prompted(s, sessions[1], WRITTEN) : NULL;
    const flm_poll poll = {destroy_once, &other};
    flm_progress progress;
    flm_error error;
    if (request && worked(s, flm_request_wait(request, (int)below(w, 2), &poll, &progress, &error), &error))
        wait_for(s, request, 1, 0, FLM_FINISH_LENGTH);
    flm_request_destroy(other);
    flm_request_destroy(request);
    flm_session_destroy(sessions[0]);
    flm_session_destroy(sessions[1]);
}

/* A text of two halves; the second is written by a fork, by the session, and again by the fork after rewinding. */
static void fork_and_rewind(worker *w, const setting *s) {
    enum { HALF = WRITTEN / 2 };
    flm_session *session = new_session(s), *fork = NULL;
    flm_request *request = session ? prompted(s, session, HALF) : NULL;
    flm_error error;
    int whole = request && wait_for(s, request, 1, 0, FLM_FINISH_LENGTH);
    flm_request_destroy(request);
    if (whole && worked(s, flm_session_fork(session, &fork, &error), &error)) {
        const size_t length = flm_session_length(session);
        CHECK(length == s->subject->length[s->prompt] + HALF && flm_session_length(fork) == length);
        for (int turn = 0; turn < 3 && whole; turn++) {
            flm_session *which = turn == 1 ? session : fork;
            request = new_request(s, which, NULL, 0, HALF);
            whole = request && wait_for(s, request, (int)below(w, 2), HALF, FLM_FINISH_LENGTH);
            flm_request_destroy(request);
            if (whole) CHECK(flm_session_rewind(which, HALF, &error) == FLM_OK);
            CHECK(!whole || flm_session_length(which) == length);
        }
    }
    flm_session_destroy(fork);
    flm_session_destroy(session);
}

static size_t best(const float *logits, uint32_t vocab) {
    size_t found = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[found]) found = i;
    return found;
}

/* Two prompts in a call. If it fails for want of memory the sessions are empty as before, and fit for use. */
static void forward(worker *w, const setting *s) {
    const uint32_t vocab = s->subject->info.vocab;
    float *logits = malloc(2 * vocab * sizeof *logits);
    flm_session *session[2] = {new_session(s), new_session(s)};
    size_t prompt[2] = {s->prompt, below(w, N_PROMPTS)};
    flm_error error;
    CHECK(logits);
    for (int again = 0; again < 2 && session[0] && session[1]; again++) {
        flm_item items[2] = {{.session = session[0]}, {.session = session[1]}};
        for (int i = 0; i < 2; i++) {
            items[i].tokens = s->subject->prompt[prompt[i]], items[i].n_tokens = s->subject->length[prompt[i]];
            items[i].rows = FLM_ROWS_LAST, items[i].logits = logits + (size_t)i * vocab;
        }
        if (worked(s, flm_forward(s->model, items, 2, NULL, &error), &error)) {
            for (int i = 0; i < 2; i++)
                CHECK((int32_t)best(items[i].logits, vocab) == s->subject->expected[prompt[i]][0]);
            break;
        }
        for (int i = 0; i < 2; i++) {
            CHECK(flm_session_length(session[i]) == 0);
            prompt[i] = below(w, 3);
        }
    }
    flm_session_destroy(session[0]);
    flm_session_destroy(session[1]);
    free(logits);
}

static void open_and_verify(worker *w, const setting *s) {
    setting other = *s;
    other.model = open_model(s->place->context, s->subject->path, 0, 1);
    generate(w, &other);
    flm_model_destroy(other.model);
}

static void look(worker *w, const setting *s) {
    flm_counters counters;
    flm_model_info info;
    (void)w;
    flm_context_counters(s->place->context, &counters);
    flm_model_info_get(s->model, &info);
    CHECK(info.parameters == s->subject->info.parameters);
}

static const struct operation {
    const char *name;
    unsigned weight;
    void (*run)(worker *w, const setting *s);
} operations[] = {
    {"generate", 6, generate},
    {"adapted", 4, generate_adapted},
    {"cancel by poll", 4, cancel_by_poll},
    {"be cancelled", 4, be_cancelled},
    {"cancel", 8, cancel_another},
    {"abandon", 3, abandon},
    {"destroy in poll", 2, destroy_in_poll},
    {"fork", 4, fork_and_rewind},
    {"forward", 6, forward},
    {"open", 1, open_and_verify},
    {"look", 2, look},
};
enum { N_OPERATIONS = sizeof operations / sizeof *operations };

static void *work(void *argument) {
    worker *w = argument;
    while (atomic_fetch_sub(&operations_left, 1) > 0) {
        place *p = &places[below(w, N_CONTEXTS)];
        size_t model = below(w, N_MODELS), kind = 0, pick = 0;
        const setting s = {p, &subjects[model], p->model[model], below(w, N_PROMPTS), 0};
        for (size_t i = 0; i < N_OPERATIONS; i++) pick += operations[i].weight;
        for (pick = below(w, pick); pick >= operations[kind].weight; kind++) pick -= operations[kind].weight;
        operations[kind].run(w, &s);
        done[kind]++;
    }
    return NULL;
}

/* ---- a single thread, before and after --------------------------------------------------------------------------- */

/* A context of one thread that writes what is expected. */
static void write_alone(subject *subject, uint64_t *random) {
    const flm_context_options options = {.size_bytes = sizeof options, .threads = 1};
    place alone = {0};
    int32_t common[LONGEST];
    size_t n_changed = 0;
    CHECK(flm_context_create(&options, &alone.context, NULL) == FLM_OK);
    flm_model *model = open_model(alone.context, subject->path, 0, 0);
    flm_model_info_get(model, &subject->info);
    CHECK(subject->info.kind != FLM_KIND_ENCODER && subject->info.context > 3 * WRITTEN);
    for (int i = 0; i < LONGEST; i++) common[i] = (int32_t)(2 + draw(random) % (subject->info.vocab - 2));
    for (size_t p = 0; p < N_PROMPTS; p++) {
        const size_t room = subject->info.context - 2 * WRITTEN, n = prompt_lengths[p];
        flm_progress progress;
        subject->length[p] = n < room ? n : room;
        memcpy(subject->prompt[p], common, sizeof common); /* they begin alike and end in a token of their own */
        subject->prompt[p][subject->length[p] - 1] = (int32_t)(2 + p);
        for (int adapts = 0; adapts < 2; adapts++) {
            const setting s = {&alone, subject, model, p, adapts};
            flm_session *session = new_session(&s);
            flm_request *request = prompted(&s, session, WRITTEN);
            CHECK(flm_request_wait(request, 1, NULL, &progress, NULL) == FLM_OK && progress.n_tokens == WRITTEN);
            memcpy((adapts ? subject->adapted : subject->expected)[p], progress.tokens, sizeof subject->expected[p]);
            flm_request_destroy(request);
            flm_session_destroy(session);
        }
        n_changed += memcmp(subject->adapted[p], subject->expected[p], sizeof subject->expected[p]) != 0;
    }
    CHECK(n_changed > 0);
    flm_model_destroy(model);
    flm_context_destroy(alone.context);
}

/* Every prompt once more: nothing may have been lost, neither pages nor results. */
static void write_again(const place *p) {
    worker w = {.random = 1};
    for (size_t m = 0; m < N_MODELS; m++)
        for (size_t prompt = 0; prompt < N_PROMPTS; prompt++) {
            place plenty = {p->context, {0}, 0}; /* an error is a fault now */
            generate(&w, &(setting){&plenty, &subjects[m], p->model[m], prompt, 0});
        }
}

int main(int argc, char **argv) {
    static worker workers[MOST_THREADS];
    CHECK(argc == 4 + N_MODELS);
    n_workers = (unsigned)strtoul(argv[1], NULL, 10);
    operations_left = strtol(argv[2], NULL, 10);
    uint64_t random = strtoull(argv[3], NULL, 10);
    CHECK(n_workers >= 1 && n_workers <= MOST_THREADS);
    for (size_t m = 0; m < N_MODELS; m++) {
        subjects[m].path = argv[4 + m];
        write_alone(&subjects[m], &random);
    }
    for (unsigned i = 0; i < N_CONTEXTS; i++) {
        const flm_context_options options = {.size_bytes = sizeof options, .threads = 2};
        places[i].is_short = i == 1;
        CHECK(flm_context_create(&options, &places[i].context, NULL) == FLM_OK);
        for (size_t m = 0; m < N_MODELS; m++) {
            const uint64_t few = FEW_PAGES * PAGE * subjects[m].info.kv_bytes_per_token;
            places[i].model[m] = open_model(places[i].context, subjects[m].path, places[i].is_short ? few : 0, 0);
        }
    }
    for (unsigned i = 0; i < n_workers; i++) {
        workers[i] = (worker){.random = draw(&random), .index = i};
        CHECK(pthread_mutex_init(&targets[i].lock, NULL) == 0);
    }
    for (unsigned i = 0; i < n_workers; i++) CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    for (unsigned i = 0; i < n_workers; i++) CHECK(pthread_join(workers[i].thread, NULL) == 0);
    for (unsigned i = 0; i < N_CONTEXTS; i++) {
        write_again(&places[i]);
        for (size_t m = 0; m < N_MODELS; m++) flm_model_destroy(places[i].model[m]);
        flm_context_destroy(places[i].context);
    }
    for (size_t k = 0; k < N_OPERATIONS; k++) printf("%s %lu, ", operations[k].name, done[k]);
    printf("short of memory %lu\n", refused);
    return 0;
}
