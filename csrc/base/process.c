#define _GNU_SOURCE
#include "process.h"

#include <sys/mman.h>
#include <unistd.h>

#if defined(__linux__) && !defined(MADV_WIPEONFORK)
#define MADV_WIPEONFORK 18
#endif

/* Memory that the kernel zeroes in a child process when it forks; NULL: not available (before Linux 4.14, other
 * systems). */
static void *wiped_page(size_t n_bytes) {
#if defined(MADV_WIPEONFORK)
    void *page = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return NULL;
    if (madvise(page, n_bytes, MADV_WIPEONFORK) == 0) return page;
    munmap(page, n_bytes);
#else
    (void)n_bytes;
#endif
    return NULL;
}

void flm_process_init(flm_process *process) {
    atomic_int *word = wiped_page(sizeof *word);
    process->owner = word ? word : &process->plain;
    /* A process id is never 0, so a wiped word differs from the id of every process. */
    atomic_init(process->owner, (int)getpid());
}

void flm_process_destroy(flm_process *process) {
    if (process->owner != &process->plain) munmap(process->owner, sizeof *process->owner);
}

int flm_process_is_own(const flm_process *process) {
    return atomic_load_explicit(process->owner, memory_order_acquire) == (int)getpid();
}
