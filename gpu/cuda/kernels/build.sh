#!/usr/bin/env bash
# Compiles the kernels: build.sh OUT TOOLKIT PTX_VERSION ARCH...  ->  OUT/sm_ARCH.cubin for each, OUT/kernels.ptx
# What was compiled once from the same sources, by the same compiler, is taken from build/kernels: presets share it.
set -euo pipefail
out=$1 toolkit=$2 ptx_version=$3
shift 3
root=$(cd "$(dirname "$0")/../../.." && pwd)
nvcc=$toolkit/bin/nvcc
flags=(-std=c++17 -O3 "-I$root" -Werror all-warnings -Xcompiler -Wall,-Wextra)

key=$(cd "$root" && { cat gpu/cuda/kernels/*.cu gpu/cuda/kernels/*.cuh gpu/cuda/kernels/build.sh gpu/cuda/kernel_args.h
    "$nvcc" --version; echo "$ptx_version" "$@"; } | sha256sum | cut -c1-16)
cache=$root/build/kernels/$key
mkdir -p "$root/build/kernels" "$out"

compile() { # what: an architecture, or ptx
    local what=$1 dir=$2
    if [ "$what" != ptx ]; then
        "$nvcc" "${flags[@]}" -arch="sm_$what" -cubin -o "$dir/sm_$what.cubin" "$root/gpu/cuda/kernels/kernels.cu"
        return
    fi
    "$nvcc" "${flags[@]}" -arch=compute_80 -ptx -o "$dir/kernels.ptx" "$root/gpu/cuda/kernels/kernels.cu"
    # The driver compiles PTX only up to the version that it knows; ptxas, run on the very text, proves that this one will do.
    # used_bytes_mask says which bytes of a load are not looked at, from PTX 8.3 on; without it they are read as well.
    sed -i -e "s/^\.version .*/.version $ptx_version/" -e '/\.pragma "used_bytes_mask/d' "$dir/kernels.ptx"
    "$toolkit/bin/ptxas" -arch=sm_80 -o /dev/null "$dir/kernels.ptx"
}

exec 9>"$root/build/kernels/lock"
flock 9 # one at a time, so that the second finds what the first has made
if [ ! -d "$cache" ]; then
    temporary=$(mktemp -d "$root/build/kernels/making.XXXXXX")
    trap 'rm -rf "$temporary"' EXIT
    export -f compile
    export nvcc toolkit root ptx_version
    declare -p flags >"$temporary/flags.sh"
    # shellcheck disable=SC2016 # expanded by the inner shell
    printf '%s\n' ptx "$@" | xargs -P "$(nproc)" -I{} bash -c 'set -e; source "$1/flags.sh"; compile "$2" "$1"' _ "$temporary" {}
    rm "$temporary/flags.sh"
    mv "$temporary" "$cache"
    trap - EXIT
fi
cp "$cache"/* "$out"
