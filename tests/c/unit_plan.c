/* flm_model_plan keeps to the room that it is given. Usage: unit_plan model.flm */
#include <fastlm.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

int main(int argc, char **argv) {
    const flm_context_options options = {.size_bytes = sizeof options, .threads = 1};
    flm_context *context;
    flm_model *model;
    CHECK(argc == 2);
    CHECK(flm_context_create(&options, &context, NULL) == FLM_OK);
    CHECK(flm_model_open(context, argv[1], NULL, &model, NULL) == FLM_OK);
    const size_t length = flm_model_plan(model, NULL, 0);
    char *whole = malloc(length + 1);
    CHECK(flm_model_plan(model, whole, length + 1) == length && strlen(whole) == length);
    for (size_t room = 1; room <= length; room += 1 + room / 3) {
        char *part = malloc(room); /* no byte more: the address sanitizer watches */
        CHECK(flm_model_plan(model, part, room) == length);
        CHECK(strlen(part) == room - 1 && memcmp(part, whole, room - 1) == 0);
        free(part);
    }
    free(whole);
    flm_model_destroy(model);
    flm_context_destroy(context);
    return 0;
}
