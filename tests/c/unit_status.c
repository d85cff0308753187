#include <errno.h>

#include "check.h"
#include "base/status.h"

static void test_names(void) {
    static const flm_status all[] = {FLM_OK,         FLM_ERR_ARGUMENT, FLM_ERR_FORMAT,  FLM_ERR_UNSUPPORTED,
                                     FLM_ERR_MEMORY, FLM_ERR_IO,       FLM_ERR_NUMERIC, FLM_ERR_CONTEXT_LENGTH,
                                     FLM_ERR_STATE,  FLM_ERR_CANCELLED};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        CHECK(strcmp(flm_status_name(all[i]), "unknown") != 0);
        for (size_t j = 0; j < i; j++) CHECK(strcmp(flm_status_name(all[i]), flm_status_name(all[j])) != 0);
    }
    CHECK(strcmp(flm_status_name((flm_status)7), "unknown") == 0);
    CHECK(strcmp(flm_version(), FLM_VERSION) == 0 && flm_abi_version() == FLM_ABI_VERSION);
}

static void test_fail(void) {
    flm_error error;
    memset(&error, 0xFF, sizeof error);
    CHECK(flm_fail(NULL, FLM_ERR_IO, "%d", 1) == FLM_ERR_IO);
    CHECK(flm_fail(&error, FLM_ERR_FORMAT, "field '%s' is %u", "heads", 0u) == FLM_ERR_FORMAT);
    CHECK(error.status == FLM_ERR_FORMAT && strcmp(error.text, "field 'heads' is 0") == 0);
}

/* Wherever a long text is cut, what is left is whole code points. */
static void test_cut(void) {
    static const char *const points[] = {"x", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x99\x82"};
    for (size_t p = 0; p < 4; p++)
        for (size_t shift = 0; shift < 8; shift++) {
            char text[1200] = "";
            flm_error error;
            memset(text, '.', shift);
            while (strlen(text) < 1000) strcat(text, points[p]);
            flm_fail(&error, FLM_ERR_IO, "%s", text);
            size_t n = strlen(error.text), room = sizeof error.text - 1;
            CHECK(n <= room && n + strlen(points[p]) > room && memcmp(error.text, text, n) == 0);
            CHECK((n - shift) % strlen(points[p]) == 0);
        }
}

/* The system's words for every error, and their beginning where there is room for no more. */
static void test_errno(void) {
    for (int number = 0; number < 300; number++) {
        char text[128], cut[8];
        memset(text, 'x', sizeof text);
        CHECK(flm_errno_text(number, text, sizeof text) == text && strcmp(text, strerror(number)) == 0);
        CHECK(flm_errno_text(number, cut, sizeof cut) == cut && strlen(cut) == sizeof cut - 1);
        CHECK(strncmp(cut, text, sizeof cut - 1) == 0);
    }
    CHECK(strstr(flm_errno_text(ENOENT, (char[64]){0}, 64), "No such file"));
}

int main(int argc, char **argv) {
    static const check_case cases[] = {{"names", test_names}, {"fail", test_fail}, {"cut", test_cut}, {"errno", test_errno}};
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
