/* Page pools, page tables and the prefix index by themselves. */
#include "check.h"
#include "cache/prefix.h"

/* The pages by themselves: what is indexed is never written, and tables share, copy and give back as they should. */
static void pages(void) {
    flm_error error = {0};
    flm_kv_pool *pool;
    flm_page_table a = {0}, b = {0}, d = {0};
    int32_t tokens[4 * FLM_PAGE];
    for (int i = 0; i < 4 * (int)FLM_PAGE; i++) tokens[i] = i;
    CHECK(flm_kv_pool_create(100, 6, &pool, &error) == FLM_OK);
    CHECK(flm_page_table_reserve(pool, &a, 0, 3 * FLM_PAGE, &error) == FLM_OK && a.n_pages == 3);
    for (int i = 0; i < 3; i++) memset(a.pages[i], i + 1, 100);
    flm_prefix_insert(pool, &a, tokens, 3 * FLM_PAGE - 1, 0);              /* the third is not full */
    CHECK(flm_prefix_find(pool, &b, tokens, 2 * FLM_PAGE, 0) == FLM_PAGE); /* the last token is always left to do */
    flm_page_table_truncate(pool, &b, 0);
    CHECK(flm_prefix_find(pool, &b, tokens, 2 * FLM_PAGE + 1, 1) == 0); /* another salt */
    CHECK(flm_prefix_find(pool, &b, tokens, 4 * FLM_PAGE, 0) == 2 * FLM_PAGE && b.pages[1] == a.pages[1]);
    CHECK(flm_kv_pool_free_pages(pool) == 3);
    /* Writing from the middle of the second page on: b gets its own, a keeps what it had. */
    CHECK(flm_page_table_missing(pool, &b, FLM_PAGE + 9, 3 * FLM_PAGE) == 2);
    CHECK(flm_page_table_reserve(pool, &b, FLM_PAGE + 9, 3 * FLM_PAGE, &error) == FLM_OK && b.n_pages == 3);
    CHECK(b.pages[0] == a.pages[0] && b.pages[1] != a.pages[1] && b.pages[1][99] == 2 && b.pages[2][0] == 0);
    CHECK(flm_kv_pool_free_pages(pool) == 1);
    CHECK(flm_page_table_reserve(pool, &b, 3 * FLM_PAGE, 5 * FLM_PAGE, &error) == FLM_ERR_MEMORY && b.n_pages == 3);
    CHECK(strstr(error.text, "`context`") && flm_kv_pool_free_pages(pool) == 1);
    /* A page of a alone is found by its prefix until a writes into it again. */
    flm_page_table_truncate(pool, &b, 0);
    flm_page_table_truncate(pool, &a, FLM_PAGE + 1);
    CHECK(flm_page_table_reserve(pool, &a, FLM_PAGE + 1, FLM_PAGE + 2, &error) == FLM_OK);
    CHECK(flm_prefix_find(pool, &b, tokens, 4 * FLM_PAGE, 0) == FLM_PAGE);
    CHECK(flm_page_table_share(pool, &d, &a, &error) == FLM_OK && d.n_pages == 2 && d.pages[1] == a.pages[1]);
    flm_page_table_truncate(pool, &d, 0);
    flm_page_table_truncate(pool, &a, 0);
    flm_page_table_truncate(pool, &b, 0);
    CHECK(flm_kv_pool_free_pages(pool) == 6);
    /* When pages run short, those that only the index keeps go, and come back as zeros. */
    CHECK(flm_page_table_reserve(pool, &d, 0, 6 * FLM_PAGE, &error) == FLM_OK);
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 100; k++) CHECK(d.pages[i][k] == 0);
    CHECK(flm_prefix_find(pool, &b, tokens, 4 * FLM_PAGE, 0) == 0);
    flm_page_table_truncate(pool, &d, 0);
    flm_page_table_truncate(pool, &b, 0);
    flm_kv_pool_destroy(pool);
    CHECK(flm_kv_pool_create(1, SIZE_MAX, &pool, &error) == FLM_ERR_MEMORY && !pool);
    CHECK(flm_kv_pool_create(SIZE_MAX - 3, 2, &pool, &error) == FLM_ERR_MEMORY && !pool);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {{"pages", pages}};
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
