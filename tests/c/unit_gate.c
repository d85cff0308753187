/* The gate alone: the order in which waiting threads lead, and what a thread that leads may not wait for. */
#define _GNU_SOURCE
#include <pthread.h>
#include <unistd.h>

#include "check.h"
#include "engine/gate.h"

enum { WAITERS = 5, ROUNDS = 4 };

typedef struct queue {
    flm_gate gate;
    int arrived, led[WAITERS], n_led;
} queue;

typedef struct visitor {
    queue *queue;
    int number;
} visitor;

static int never(void *user) { return (void)user, 0; }

/* Half of the threads wait with a poll, and so leave the gate now and then. */
static void *visit(void *argument) {
    visitor *v = argument;
    queue *q = v->queue;
    const flm_poll poll = {never, NULL};
    __atomic_add_fetch(&q->arrived, 1, __ATOMIC_RELEASE);
    CHECK(flm_gate_enter_leading(&q->gate, v->number % 2 ? &poll : NULL, NULL) == FLM_OK);
    q->led[q->n_led++] = v->number;
    flm_gate_leave_leading(&q->gate);
    return NULL;
}

/* Who came first leads first, however often sleepers woke to look around meanwhile. */
static void order(void) {
    for (int round = 0; round < ROUNDS; round++) {
        queue q = {.n_led = 0};
        visitor visitors[WAITERS];
        pthread_t threads[WAITERS];
        flm_gate_init(&q.gate);
        CHECK(flm_gate_enter_leading(&q.gate, NULL, NULL) == FLM_OK);
        flm_gate_leave(&q.gate);
        for (int i = 0; i < WAITERS; i++) {
            visitors[i] = (visitor){&q, i};
            CHECK(pthread_create(&threads[i], NULL, visit, &visitors[i]) == 0);
            while (__atomic_load_n(&q.arrived, __ATOMIC_ACQUIRE) <= i) usleep(100);
            usleep(3000); /* until it sleeps; longer than FLM_GATE_SECONDS for all together */
        }
        usleep(4000 * (unsigned)round);
        flm_gate_reenter(&q.gate);
        flm_gate_leave_leading(&q.gate);
        for (int i = 0; i < WAITERS; i++) pthread_join(threads[i], NULL);
        int out_of_order = 0; /* one that was looking around when its turn came is overtaken, not shuffled */
        for (int i = 0; i < WAITERS; i++) out_of_order += q.led[i] != i;
        CHECK(q.n_led == WAITERS && out_of_order <= 2);
        flm_gate_destroy(&q.gate);
    }
}

/* A thread that leads does not wait for itself. */
static void itself(void) {
    flm_gate gate;
    flm_error error;
    flm_gate_init(&gate);
    CHECK(flm_gate_enter_leading(&gate, NULL, NULL) == FLM_OK);
    CHECK(flm_gate_may_wait(&gate, &error) == FLM_ERR_STATE && strstr(error.text, "poll"));
    flm_gate_leave(&gate);
    CHECK(flm_gate_enter_leading(&gate, NULL, &error) == FLM_ERR_STATE);
    CHECK(flm_gate_enter(&gate, NULL) == FLM_OK);
    flm_gate_leave_leading(&gate);
    CHECK(flm_gate_enter_leading(&gate, NULL, NULL) == FLM_OK);
    flm_gate_leave_leading(&gate);
    flm_gate_destroy(&gate);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {{"order", order}, {"itself", itself}};
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
