/* Red zones for the address sanitizer: poisoned bytes between the parts of one allocation, so that an overrun of a
 * part is reported. Ordinary builds have none: FLM_RED_ZONE is 0, the macros do nothing, and layouts are the same as
 * without them. */
#ifndef FLM_SANITIZER_H
#define FLM_SANITIZER_H

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define FLM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FLM_ASAN 1
#endif
#endif

#if defined(FLM_ASAN)
#include <sanitizer/asan_interface.h>
#define FLM_RED_ZONE ((size_t)128) /* a multiple of a cache line, so that parts stay aligned */
#define FLM_POISON(at, n_bytes) __asan_poison_memory_region((at), (n_bytes))
#define FLM_UNPOISON(at, n_bytes) __asan_unpoison_memory_region((at), (n_bytes))
#else
#define FLM_RED_ZONE ((size_t)0)
#define FLM_POISON(at, n_bytes) ((void)(at), (void)(n_bytes))
#define FLM_UNPOISON(at, n_bytes) ((void)(at), (void)(n_bytes))
#endif

#endif
