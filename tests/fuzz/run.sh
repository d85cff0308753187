#!/bin/sh
# Builds a libFuzzer target with clang, under the address and the undefined-behaviour sanitizer, and runs it.
#
# usage: tests/fuzz/run.sh spec|container|text [libFuzzer options and folders of inputs...]
#   tests/fuzz/run.sh spec -max_total_time=60
#   tests/fuzz/run.sh container -jobs=8 -max_len=65536 corpus/      for days; new inputs go to corpus/
# The programs stay in build/fuzz; what ends one is written to crash-*, leak-*, timeout-* or oom-*: `PROGRAM FILE` runs
# it again. `pytest tests/c/test_fuzz.py` leaves inputs to begin with in .pytest_cache/d/fuzz/TARGET.
set -eu
cd "$(dirname "$0")/../.."
target=$1
shift
out=build/fuzz
mkdir -p "$out"
rm -f "$out"/*.o
compile="${CLANG:-clang} -std=c11 -O1 -g1 -ffp-contract=off -fno-math-errno -pthread -fno-omit-frame-pointer"
compile="$compile -Icsrc/include -Icsrc"
# The unrolled kernels take no part in what steers the fuzzer, and would take long to compile with all checks.
find csrc/kernels -name '*.c' | xargs -P "$(getconf _NPROCESSORS_ONLN)" -I FILE sh -c \
    "$compile -fsanitize=address -c FILE -o $out/\$(basename FILE .c).o"
$compile -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all "tests/fuzz/fuzz_$target.c" \
    $(find csrc -path csrc/kernels -prune -o -name '*.c' -print) "$out"/*.o -lm -o "$out/fuzz_$target"
exec "$out/fuzz_$target" -timeout=20 -rss_limit_mb=1024 -malloc_limit_mb=512 "$@"
