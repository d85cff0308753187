/* Sets of processors, numbered as Linux numbers them. cpu_set.c. */
#ifndef FLM_CPU_SET_H
#define FLM_CPU_SET_H

enum { FLM_MOST_CPUS = 65536, FLM_CPUS_PER_WORD = 64 };

/* Laid out as cpu_set_t, which ends at 1024 processors. */
typedef struct flm_cpu_set {
    unsigned long words[FLM_MOST_CPUS / FLM_CPUS_PER_WORD];
} flm_cpu_set;

void flm_cpus_clear(flm_cpu_set *set);
void flm_cpus_add(flm_cpu_set *set, unsigned cpu);
void flm_cpus_remove(flm_cpu_set *set, unsigned cpu);
void flm_cpus_unite(flm_cpu_set *set, const flm_cpu_set *other);
/* Leave only what the other one has, too; but leave all if nothing would be left. */
void flm_cpus_prefer(flm_cpu_set *set, const flm_cpu_set *other);
int flm_cpus_have(const flm_cpu_set *set, unsigned cpu);
unsigned flm_cpus_count(const flm_cpu_set *set);
/* The first member from `cpu` on; FLM_MOST_CPUS: there is none. */
unsigned flm_cpus_next(const flm_cpu_set *set, unsigned cpu);
/* Parse a list in ascending order such as "0-3,8\n". 0: it is none, is empty, or names what no set can hold. */
int flm_cpus_parse(const char *list, flm_cpu_set *set);

#endif
