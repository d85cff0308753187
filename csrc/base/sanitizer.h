/* Red zones for the address sanitizer: bytes between the parts of one block that nobody may touch, so that an overrun
 * of a part is seen. Ordinary builds have none: FLM_RED_ZONE is 0, the macros do nothing, and layouts are what they
 * would be without them. */
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
#define FLM_RED_ZONE ((size_t)128) /* whole lines, so that parts stay aligned */
#define FLM_POISON(at, n_bytes) __asan_poison_memory_region((at), (n_bytes))
#define FLM_UNPOISON(at, n_bytes) __asan_unpoison_memory_region((at), (n_bytes))
#else
#define FLM_RED_ZONE ((size_t)0)
#define FLM_POISON(at, n_bytes) ((void)(at), (void)(n_bytes))
#define FLM_UNPOISON(at, n_bytes) ((void)(at), (void)(n_bytes))
#endif

#endif
