/* What the library needs of compiler and machine; a build that cannot work ends here, with the reason. */
#ifndef FLM_MACHINE_H
#define FLM_MACHINE_H

#include <stddef.h>

/* clang-cl defines __clang__ only. */
#if !defined(__GNUC__) && !defined(__clang__)
#error "fastlm needs GCC or Clang (on Windows clang-cl): its kernels are written with their vector extensions"
#elif defined(__clang__) && !defined(__apple_build_version__) && __clang_major__ == 16
#error "Clang 16 crashes on fastlm's kernels: use another version, or GCC"
#elif defined(__clang__) ? __clang_major__ < 9 : __GNUC__ < 10
#error "fastlm needs GCC 10 or Clang 9, or a later one: older ones do not know bfloat16 instructions"
#endif

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "fastlm needs a little-endian machine: files and packed weights are read as they lie"
#endif

_Static_assert(sizeof(size_t) == 8 && sizeof(void *) == 8, "fastlm needs a 64-bit machine");

#endif
