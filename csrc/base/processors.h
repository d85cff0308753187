/* Where the calling thread runs, and may run. Where the system does not say, nothing happens. */
#ifndef FLM_PROCESSORS_H
#define FLM_PROCESSORS_H

enum { FLM_PROCESSOR_UNKNOWN = -1, FLM_MOST_PROCESSORS = 1024 };

/* Processors that a thread was allowed to use before flm_processors_leave, and after it. */
typedef struct flm_processors {
    unsigned long allowed[FLM_MOST_PROCESSORS / 8 / sizeof(unsigned long)];
    unsigned long left[FLM_MOST_PROCESSORS / 8 / sizeof(unsigned long)];
    int has_left; /* 1: both are set */
} flm_processors;

int flm_processor(void);
/* Move to any other of the allowed processors, if there is one, and stay away from this one. */
void flm_processors_leave(flm_processors *own, int processor);
/* Use all that were allowed again. */
void flm_processors_restore(flm_processors *own);

#endif
