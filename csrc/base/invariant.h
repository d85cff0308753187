/* What must hold wherever control passes. Test builds (-DFLM_CHECKS) stop at the first violation; other builds evaluate
 * nothing, for a library never ends its host. */
#ifndef FLM_INVARIANT_H
#define FLM_INVARIANT_H

#if defined(FLM_CHECKS)
#define FLM_INVARIANT(condition) ((condition) ? (void)0 : __builtin_trap())
#else
#define FLM_INVARIANT(condition) ((void)sizeof(!(condition)))
#endif

#endif
