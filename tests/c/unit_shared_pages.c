/* What sharing pages costs: to ask how many are missing changes nothing, and a copy on write is not zeroed first. Build
 * with -Wl,--wrap=memset. */
#include "check.h"
#include "cache/prefix.h"

static size_t zeroed; /* bytes set by memset */
void *__real_memset(void *at, int value, size_t n);
void *__wrap_memset(void *at, int value, size_t n);
void *__wrap_memset(void *at, int value, size_t n) {
    zeroed += n;
    return __real_memset(at, value, n);
}

enum { PAGE_BYTES = 1 << 16 };
static int32_t tokens[4 * FLM_PAGE];

static flm_kv_pool *new_pool(void) {
    flm_kv_pool *pool;
    CHECK(flm_kv_pool_create(PAGE_BYTES, 6, &pool, NULL) == FLM_OK);
    return pool;
}

static void question(void) {
    flm_page_table a = {0}, b = {0};
    flm_kv_pool *pool = new_pool();
    CHECK(flm_page_table_reserve(pool, &a, 0, 2 * FLM_PAGE, NULL) == FLM_OK);
    flm_prefix_insert(pool, &a, tokens, 2 * FLM_PAGE, 0);
    CHECK(flm_page_table_missing(pool, &a, FLM_PAGE, 2 * FLM_PAGE) == 0);
    CHECK(flm_prefix_find(pool, &b, tokens, 4 * FLM_PAGE, 0) == 2 * FLM_PAGE); /* both are found still */
    flm_page_table_truncate(pool, &b, 0);
    flm_page_table_truncate(pool, &a, 0);
    flm_kv_pool_destroy(pool);
}

static void copy(void) {
    flm_page_table a = {0}, b = {0}, used = {0};
    flm_kv_pool *pool = new_pool();
    CHECK(flm_page_table_reserve(pool, &used, 0, 2 * FLM_PAGE, NULL) == FLM_OK);
    flm_page_table_truncate(pool, &used, 0); /* free pages that were used before */
    CHECK(flm_page_table_reserve(pool, &a, 0, FLM_PAGE, NULL) == FLM_OK);
    CHECK(flm_page_table_share(pool, &b, &a, NULL) == FLM_OK);
    zeroed = 0;
    CHECK(flm_page_table_reserve(pool, &b, 9, FLM_PAGE, NULL) == FLM_OK && b.pages[0] != a.pages[0]);
    CHECK(zeroed < PAGE_BYTES); /* what is copied is not zeroed first */
    flm_page_table_truncate(pool, &b, 0);
    flm_page_table_truncate(pool, &a, 0);
    flm_kv_pool_destroy(pool);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {{"question", question}, {"copy", copy}};
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
