/* Which process an object belongs to. A process id alone does not say: in a PID namespace, or once ids are used again,
 * a child process may have the id of its parent. process.c. */
#ifndef FLM_PROCESS_H
#define FLM_PROCESS_H

#include <stdatomic.h>

/* The word *owner holds the id of the process that uses an object. After fork it reads 0 in the child, whatever the
 * parent's says, where the system can wipe memory (Linux 4.14); elsewhere it reads the parent's id. */
typedef struct flm_process {
    atomic_int *owner;
    atomic_int plain; /* *owner, where the system cannot wipe */
} flm_process;

void flm_process_init(flm_process *process); /* owned by the calling process */
void flm_process_destroy(flm_process *process);
int flm_process_is_own(const flm_process *process);

#endif
