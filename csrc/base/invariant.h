/* Conditions that must hold whenever control passes. Test builds (-DFLM_CHECKS) trap at the first violation. Other
 * builds do not evaluate the condition, because a library must not end its host; sizeof keeps its names used and
 * checked. */
#ifndef FLM_INVARIANT_H
#define FLM_INVARIANT_H

#if defined(FLM_CHECKS)
#define FLM_INVARIANT(condition) ((condition) ? (void)0 : __builtin_trap())
#else
#define FLM_INVARIANT(condition) ((void)sizeof(!(condition)))
#endif

#endif
