#include "cpu_set.h"

#include <string.h>

#include "text_file.h"

enum { N_WORDS = FLM_MOST_CPUS / FLM_CPUS_PER_WORD };

static unsigned long bit_of(unsigned cpu) { return 1ul << cpu % FLM_CPUS_PER_WORD; }

void flm_cpus_clear(flm_cpu_set *set) { memset(set, 0, sizeof *set); }

void flm_cpus_add(flm_cpu_set *set, unsigned cpu) { set->words[cpu / FLM_CPUS_PER_WORD] |= bit_of(cpu); }

void flm_cpus_remove(flm_cpu_set *set, unsigned cpu) { set->words[cpu / FLM_CPUS_PER_WORD] &= ~bit_of(cpu); }

void flm_cpus_unite(flm_cpu_set *set, const flm_cpu_set *other) {
    for (unsigned w = 0; w < N_WORDS; w++) set->words[w] |= other->words[w];
}

void flm_cpus_prefer(flm_cpu_set *set, const flm_cpu_set *other) {
    unsigned long left = 0;
    for (unsigned w = 0; w < N_WORDS; w++) left |= set->words[w] & other->words[w];
    for (unsigned w = 0; w < N_WORDS && left; w++) set->words[w] &= other->words[w];
}

int flm_cpus_have(const flm_cpu_set *set, unsigned cpu) {
    return (set->words[cpu / FLM_CPUS_PER_WORD] & bit_of(cpu)) != 0;
}

unsigned flm_cpus_count(const flm_cpu_set *set) {
    unsigned n = 0;
    for (unsigned w = 0; w < N_WORDS; w++) n += (unsigned)__builtin_popcountl(set->words[w]);
    return n;
}

unsigned flm_cpus_next(const flm_cpu_set *set, unsigned cpu) {
    for (unsigned w = cpu / FLM_CPUS_PER_WORD, skip = cpu % FLM_CPUS_PER_WORD; w < N_WORDS; w++, skip = 0) {
        const unsigned long rest = set->words[w] >> skip << skip;
        if (rest) return w * FLM_CPUS_PER_WORD + (unsigned)__builtin_ctzl(rest);
    }
    return FLM_MOST_CPUS;
}

int flm_cpus_parse(const char *list, flm_cpu_set *set) {
    flm_cpus_clear(set);
    for (long next = 0;; list++) { /* what comes is in ascending order: so the work is bounded */
        const long first = flm_take_number(&list, FLM_MOST_CPUS - 1);
        long last = first;
        if (*list == '-') {
            list++;
            last = flm_take_number(&list, FLM_MOST_CPUS - 1);
        }
        if (first < next || last < first) return 0;
        for (next = first; next <= last; next++) flm_cpus_add(set, (unsigned)next);
        if (*list != ',') return *list == '\0' || (*list == '\n' && list[1] == '\0');
    }
}
