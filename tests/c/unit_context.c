/* What the public header says of contexts. */
#define _GNU_SOURCE
#include <fastlm.h>
#include <stdlib.h>

#include "check.h"

#define CASE(name) {#name, test_##name}

static flm_context_options options_of(uint32_t threads, const char *isa) {
    return (flm_context_options){.size_bytes = sizeof(flm_context_options), .threads = threads, .isa = isa};
}

static void test_create(void) {
    flm_error error;
    flm_context *context = NULL;
    CHECK(flm_context_create(NULL, &context, &error) == FLM_OK);
    CHECK(flm_context_threads(context) == flm_usable_cores() && flm_usable_cores() >= 1);
    flm_context_destroy(context);
    flm_context_destroy(NULL);
    for (uint32_t n = 1; n <= 5; n++) {
        flm_context_options options = options_of(n, NULL);
        CHECK(flm_context_create(&options, &context, &error) == FLM_OK && flm_context_threads(context) == n);
        flm_counters counters;
        memset(&counters, 0xFF, sizeof counters);
        flm_context_counters(context, &counters);
        CHECK(counters.forwards == 0 && counters.tokens == 0 && counters.prefix_hit_tokens == 0);
        CHECK(counters.step_seconds == 0 && counters.thread_seconds == 0);
        for (int t = 0; t < FLM_MAX_THREADS; t++) CHECK(counters.tiles[t] == 0);
        flm_context_destroy(context);
    }
}

static void test_suggested_threads(void) {
    const uint32_t usable = flm_usable_cores();
    CHECK(flm_suggested_threads(0) == 1 && flm_suggested_threads(1) == 1);
    CHECK(flm_suggested_threads(UINT64_MAX) == usable);
    for (uint64_t bytes = 1, before = 1; bytes < (uint64_t)1 << 40; bytes *= 2) { /* more bytes, no fewer threads */
        CHECK(flm_suggested_threads(bytes) >= before && flm_suggested_threads(bytes) <= usable);
        before = flm_suggested_threads(bytes);
    }
}

static void check_refused(flm_context_options options, const char *culprit) {
    flm_error error;
    flm_context *context = (flm_context *)&error;
    CHECK(flm_context_create(&options, &context, &error) == FLM_ERR_ARGUMENT && !context);
    CHECK(error.status == FLM_ERR_ARGUMENT && strstr(error.text, culprit));
    CHECK(flm_context_create(&options, &context, NULL) == FLM_ERR_ARGUMENT);
}

static void test_refused(void) {
    flm_context_options options = options_of(1, NULL);
    check_refused(options_of(FLM_MAX_THREADS + 1, NULL), "threads");
    check_refused(options_of(UINT32_MAX, NULL), "threads");
    options.size_bytes = 0;
    check_refused(options, "size_bytes");
    options.size_bytes = sizeof options + 8;
    check_refused(options, "size_bytes");
    check_refused(options_of(1, "sse9"), "sse9");
    check_refused(options_of(1, "sse9"), "scalar"); /* what could be chosen */
}

static void test_old_header(void) { /* that knew of no isa: unset */
    flm_error error;
    flm_context *context = NULL;
    flm_context_options options = options_of(2, "not looked at");
    options.size_bytes = offsetof(flm_context_options, isa);
    CHECK(flm_context_create(&options, &context, &error) == FLM_OK && flm_context_threads(context) == 2);
    flm_context_destroy(context);
}

static void test_isa(void) {
    flm_error error;
    flm_context *context = NULL;
    flm_context_options options = options_of(1, "scalar");
    CHECK(flm_context_create(&options, &context, &error) == FLM_OK);
    CHECK(strcmp(flm_context_isa(context), "scalar") == 0);
    flm_context_destroy(context);
    options.isa = NULL;
    setenv("FASTLM_ISA", "scalar", 1);
    CHECK(flm_context_create(&options, &context, &error) == FLM_OK);
    CHECK(strcmp(flm_context_isa(context), "scalar") == 0);
    flm_context_destroy(context);
    setenv("FASTLM_ISA", "mmx", 1);
    check_refused(options, "FASTLM_ISA");
    unsetenv("FASTLM_ISA");
}

static uint32_t threads_of(flm_context_options options) {
    flm_error error;
    flm_context *context = NULL;
    CHECK(flm_context_create(&options, &context, &error) == FLM_OK);
    const uint32_t n = flm_context_threads(context);
    flm_context_destroy(context);
    return n;
}

static void test_default_threads(void) {
    static const char *const wrong[] = {"0",   "-1",  "abc",    "2x",         " 2", "+2",
                                        "1.5", "257", "100000", "4294967298", "0x2"};
    flm_context_options options = options_of(0, NULL);
    for (uint64_t bytes = 1; bytes < (uint64_t)1 << 40; bytes *= 16) {
        options.weight_bytes = bytes;
        CHECK(threads_of(options) == flm_suggested_threads(bytes));
    }
    setenv("FASTLM_THREADS", "3", 1);
    CHECK(threads_of(options) == 3 && threads_of(options_of(0, NULL)) == 3 && threads_of(options_of(2, NULL)) == 2);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("FASTLM_THREADS", wrong[i], 1);
        check_refused(options, "FASTLM_THREADS");
        check_refused(options, wrong[i]);
        CHECK(threads_of(options_of(2, NULL)) == 2); /* who asks for a number gets it */
    }
    setenv("FASTLM_THREADS", "", 1);
    options.weight_bytes = 1;
    CHECK(threads_of(options) == 1);
    unsetenv("FASTLM_THREADS");
}

int main(int argc, char **argv) {
    static const check_case cases[] = {CASE(create), CASE(suggested_threads), CASE(refused), CASE(old_header),
                                       CASE(isa),    CASE(default_threads)};
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
