/* Owning processes and the gate, in a child process with its parent's id, as in PID namespaces of their own. Build with
 * -Wl,--wrap=getpid. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "engine/gate.h"

pid_t __wrap_getpid(void);
pid_t __wrap_getpid(void) { return 1; }

static int can_wipe(void) {
    void *page = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    const int can = madvise(page, 1, 18 /* MADV_WIPEONFORK */) == 0;
    munmap(page, 1);
    return can;
}

static void in_child(void (*check)(flm_gate *gate), flm_gate *gate) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(30);
        check(gate);
        flm_gate_destroy(gate);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void enter_and_leave(flm_gate *gate) {
    CHECK(!flm_process_is_own(&gate->process));
    for (int i = 0; i < 3; i++) {
        CHECK(flm_gate_enter(gate, NULL) == FLM_OK);
        CHECK(flm_process_is_own(&gate->process));
        flm_gate_leave(gate);
    }
}

static void again_in_grandchild(flm_gate *gate) {
    enter_and_leave(gate);
    in_child(enter_and_leave, gate);
}

static void refuse(flm_gate *gate) {
    flm_error error;
    for (int i = 0; i < 3; i++) CHECK(flm_gate_enter(gate, &error) == FLM_ERR_STATE && strstr(error.text, "forked"));
}

/* Children go on where the gate was idle, and are told where it was not: its lock is held by a thread they lack. */
static void test_gate(void) {
    flm_gate gate;
    if (!can_wipe()) return; /* before Linux 4.14 */
    flm_gate_init(&gate);
    in_child(again_in_grandchild, &gate);
    CHECK(flm_gate_enter(&gate, NULL) == FLM_OK);
    in_child(refuse, &gate);
    flm_gate_leave(&gate);
    in_child(enter_and_leave, &gate);
    flm_gate_destroy(&gate);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {{"gate", test_gate}};
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
