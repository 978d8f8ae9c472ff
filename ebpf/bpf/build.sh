#!/usr/bin/env bash
# Compiles the programs. Byte for byte the same on every machine with Debian's clang 14 and llvm 14: no header of the system is
# read, and no path and no time is in an object.
#
#   build.sh          renews the objects and manifest.txt, which building the crate checks
#   build.sh --check  compiles elsewhere, changes nothing, and fails where what stands here is not what comes out
set -euo pipefail
export LC_ALL=C

cd "$(dirname "${BASH_SOURCE[0]}")"
clang=${CLANG:-clang-14}
strip=${LLVM_STRIP:-llvm-strip-14}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

for name in xdp selector generator; do
    # -mcpu=v3: compare-and-swap. -g: the types of maps; what only debuggers read is stripped.
    "$clang" -target bpfel -mcpu=v3 -O2 -g -std=gnu11 -nostdinc \
        -Wall -Wextra -Werror \
        -ffile-prefix-map="$PWD"=. -fdebug-compilation-dir=. \
        -c "$name.c" -o "$out/$name.o"
    "$strip" -g "$out/$name.o"
done

{
    echo "# What the objects were made of, and by what. Written by build.sh."
    echo "# $("$clang" --version | head -n 1)"
    sha256sum -- *.c *.h build.sh
    (cd "$out" && sha256sum -- *.o)
} >"$out/manifest.txt"

if [[ ${1:-} == --check ]]; then
    for file in xdp.o selector.o generator.o manifest.txt; do
        cmp "$file" "$out/$file"
    done
    echo "the objects are what their sources make"
else
    cp "$out"/*.o "$out/manifest.txt" .
    cat manifest.txt
fi
