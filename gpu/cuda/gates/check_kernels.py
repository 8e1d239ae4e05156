#!/usr/bin/env python3
"""What can be said of the compiled kernels without a card: check_kernels.py [--images DIR] [--nvrtc LIBRARY] [--update]

Reads what the build has made of gpu/cuda/kernels/kernels.cu: a cubin for each architecture and the PTX. One line a gate; the last
line is "N passed, N failed". resources.csv beside this file holds registers, shared memory and the blocks that fit on an SM, for
each kernel and architecture; a change for the worse fails, and --update writes the table anew, to be committed with its reason.
"""
import argparse
import csv
import ctypes
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "resources.csv")
SOURCE = f"{ROOT}/gpu/cuda/kernels/kernels.cu"
ARGS_HEADER = f"{ROOT}/gpu/cuda/kernel_args.h"

# Of one SM: warps, blocks, KiB of shared memory, as the CUDA C++ programming guide lists them by compute capability. All have
# 65536 registers in four quarters, given to warps by 256, and keep 1 KiB of shared memory for each block.
ARCHS = {80: (64, 32, 164), 86: (48, 16, 100), 89: (48, 24, 100), 90: (64, 32, 228), 100: (64, 32, 228), 120: (48, 24, 100)}

# Kernels, their argument struct, and the head dim in the name where dynamic shared memory depends on it.
STRUCTS = [(r"embed_b?f16", "cuda_embed_args"), (r"norm_b?f16", "cuda_norm_args"), (r"rotary_b?f16", "cuda_rotary_args"),
           (r"prefill_b?f16_d\d+", "cuda_prefill_args"), (r"decode_b?f16_d\d+", "cuda_decode_args"),
           (r"merge_b?f16", "cuda_merge_args"), (r"gelu_b?f16", "cuda_gelu_args"),
           (r"matmul_(f16|bf16|q8)_t(8|16|32|64)", "cuda_matmul_args"), (r"sample", "cuda_sample_args"),
           (r"hash", "cuda_hash_args")]

WIDE, TENSOR = r"LDG\S*\.128", r"HMMA"
WIDE_ASYNC = r"LDGSTS\S*\.128"
NARROW = r"LDG\.(?!\S*\.128)"
# (kernels, whether a loop must hold it all, what must be there, what must not)
INSTRUCTIONS = [(r"matmul_.*", True, [WIDE, TENSOR], [NARROW]),
                (r"prefill_.*", True, [WIDE_ASYNC, TENSOR], []),
                (r"decode_.*", False, [WIDE_ASYNC, TENSOR], []),
                (r"hash", True, [WIDE, r"IMAD\.WIDE\.U32", r"SHFL"], [NARROW]),
                (r"norm_.*", False, [WIDE], []),
                (r"gelu_.*", True, [WIDE, r"STG\S*\.128", r"MUFU\.EX2"], [NARROW])]
LOCAL, DOUBLE = r"\b(LDL|STL)\b", r"\b(DADD|DMUL|DFMA|DSETP|DMNMX)\b|\.F64\b|64H\b"
DOUBLE_ALLOWED = {"sample"}


def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{os.path.basename(argv[0])}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


# ---- what the images hold ----

def parameter_reads(param, body):
    """[(offset, bytes)] of the parameter's reads, by its name or by registers that hold an address in it; what else is done
    with those."""
    address = {param: 0}
    for to, base, plus in re.findall(r"\b(?:mov|add)\.[a-z]64\s+(%rd\d+), ([%\w]+)(?:, (\d+))?;", body):
        if base in address:
            address[to] = address[base] + int(plus or 0)
    loads, escapes = [], []
    for line in body.splitlines():
        m = re.search(r"ld\.param(?:\.v(\d))?\.[a-z](\d+)\s+.*\[([%\w]+)(?:\+(-?\d+))?\];", line)
        if m and m[3] in address:
            loads.append((address[m[3]] + int(m[4] or 0), int(m[2]) // 8 * int(m[1] or 1)))
        elif not re.match(r"\s*(mov|add)\.[a-z]64\s", line) and set(re.findall(r"[%\w]+", line)) & address.keys():
            escapes.append(line.strip())
    return loads, escapes


def entries_of(ptx):
    """{kernel: {"threads", "param": (bytes, align), "loads": [(offset, bytes)], "escapes"}} of the PTX text."""
    entries = {}
    for m in re.finditer(r"\.visible \.entry (\w+)\(\s*(.*?)\s*\)\s*(.*?)\{(.*?)\n\}", ptx, re.S):
        name, params, directives, body = m.groups()
        threads = re.search(r"\.maxntid (\d+)(?:, (\d+), (\d+))?", directives)
        param = re.search(r"\.param \.align (\d+) \.b8 \w+\[(\d+)\]", params)
        loads, escapes = parameter_reads(name + "_param_0", body)
        entries[name] = {"threads": int(threads[1]) if threads else None,
                         "param": (int(param[2]), int(param[1])) if param else None, "loads": loads, "escapes": escapes}
    return entries


def resources_of(cuobjdump, cubin, arch):
    """{kernel: (registers, static shared bytes, local bytes)}"""
    text = run(cuobjdump, "-res-usage", cubin)
    reserved = 1024 if arch >= 90 else 0  # counted in there from sm_90 on
    return {m[1]: (int(m[2]), int(m[4]) - reserved, int(m[3]) + int(m[5])) for m in
            re.finditer(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)}


def code_of(cuobjdump, cubin):
    """{kernel: [(address, instruction)]}"""
    code = {}
    for part in re.split(r"\n\s*Function : ", run(cuobjdump, "-sass", cubin))[1:]:
        name = part.split("\n", 1)[0].strip()
        code[name] = [(int(m[1], 16), m[2].strip()) for m in re.finditer(r"/\*([0-9a-f]{4,})\*/\s+([^;]*);", part)]
    return code


def loops_of(instructions):
    """The text of each loop: from a branch's target to the branch."""
    for address, text in instructions:
        m = re.search(r"\bBRA\S*\s.*?\b0x([0-9a-f]+)", text)
        if m and int(m[1], 16) < address:
            begin = int(m[1], 16)
            yield "\n".join(t for a, t in instructions if begin <= a <= address)


class Facts:
    """The images and what the host's compiler says of kernel_args.h."""

    def __init__(self, images, toolkit):
        self.images, self.bin = images, f"{toolkit}/bin"
        cuobjdump = f"{self.bin}/cuobjdump"
        self.cubins = {arch: f"{images}/sm_{arch}.cubin" for arch in ARCHS}
        missing = [p for p in [*self.cubins.values(), f"{images}/kernels.ptx"] if not os.path.exists(p)]
        if missing:
            raise RuntimeError(f"{missing[0]} is not there: build first (ninja kernels, or ./dev build)")
        newest = max(os.path.getmtime(f"{ROOT}/gpu/cuda/kernels/{f}") for f in os.listdir(f"{ROOT}/gpu/cuda/kernels")
                     if f.endswith((".cu", ".cuh")))
        if min(os.path.getmtime(p) for p in self.cubins.values()) < newest:
            raise RuntimeError(f"{images} is older than the kernels: build first")
        with open(f"{images}/kernels.ptx") as f:
            self.ptx = f.read()
        self.entries = entries_of(self.ptx)
        self.resources = {arch: resources_of(cuobjdump, p, arch) for arch, p in self.cubins.items()}
        self.code = {arch: code_of(cuobjdump, p) for arch, p in self.cubins.items()}
        self.structs, self.dynamic = layout_of_args()


def struct_of(kernel):
    return next((s for pattern, s in STRUCTS if re.fullmatch(pattern, kernel)), None)


def layout_of_args():
    """({struct: (bytes, align, [(field, offset, bytes)])}, {("prefill"|"decode", head dim): dynamic shared bytes})"""
    with open(ARGS_HEADER) as f:
        header = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    lines = []
    for name, body in re.findall(r"struct (cuda_\w+_args) \{(.*?)\n\};", header, re.S):
        lines.append(f'printf("struct {name} %zu %zu\\n", sizeof(struct {name}), _Alignof(struct {name}));')
        for field in re.findall(r"(\w+)\s*[,;]", body):
            lines.append(f'printf("field {name} {field} %zu %zu\\n", offsetof(struct {name}, {field}), '
                         f"sizeof(((struct {name} *)0)->{field}));")
    for d in (32, 64, 80, 96, 128, 256):
        for what in ("prefill", "decode"):
            lines.append(f'printf("shared {what} {d} %u\\n", (unsigned)cuda_{what}_shared_bytes({d}));')
    with tempfile.TemporaryDirectory() as tmp:
        with open(f"{tmp}/layout.c", "w") as f:
            f.write(f'#include <stddef.h>\n#include <stdio.h>\n#include "{ARGS_HEADER}"\nint main(void)\n{{\n' +
                    "\n".join(lines) + "\nreturn 0;\n}\n")
        run(os.environ.get("CC", "cc"), "-o", f"{tmp}/layout", f"{tmp}/layout.c")
        out = run(f"{tmp}/layout")
    structs, dynamic = {}, {}
    for line in out.splitlines():
        kind, name, *rest = line.split()
        if kind == "struct":
            structs[name] = (int(rest[0]), int(rest[1]), [])
        elif kind == "field":
            structs[name][2].append((rest[0], int(rest[1]), int(rest[2])))
        else:
            dynamic[name, int(rest[0])] = int(rest[1])
    return structs, dynamic


# ---- resources ----

def blocks_per_sm(arch, threads, registers, shared):
    """How many blocks fit on an SM (CUDA C++ best practices guide, 10.2; the same as cuda_occupancy.h)."""
    warps_max, blocks_max, shared_kib = ARCHS[arch]
    warps = -(-threads // 32)
    of_warp = -(-registers * 32 // 256) * 256
    by_registers = 65536 // 4 // of_warp * 4 // warps
    by_shared = shared_kib * 1024 // (-(-(shared + 1024) // 128) * 128)
    return min(warps_max // warps, blocks_max, by_registers, by_shared)


def table_now(facts):
    rows = []
    for kernel, entry in sorted(facts.entries.items()):
        m = re.fullmatch(r"(prefill|decode)_b?f16_d(\d+)", kernel)
        dynamic = facts.dynamic[m[1], int(m[2])] if m else 0
        for arch in ARCHS:
            registers, static, _ = facts.resources[arch][kernel]
            blocks = blocks_per_sm(arch, entry["threads"], registers, static + dynamic)
            rows.append({"kernel": kernel, "arch": str(arch), "threads": str(entry["threads"]), "registers": str(registers),
                         "shared_static": str(static), "shared_dynamic": str(dynamic), "blocks_per_sm": str(blocks),
                         "occupancy_percent": str(100 * blocks * entry["threads"] // 32 // ARCHS[arch][0])})
    return rows


def table_write(rows):
    with open(TABLE, "w", newline="") as f:
        out = csv.DictWriter(f, rows[0].keys(), lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


# ---- the gates: each yields what is wrong ----

def gate_targets(facts):
    """every kernel is in the PTX and in the cubin of every architecture"""
    for arch, resources in facts.resources.items():
        for kernel in sorted(facts.entries.keys() ^ resources.keys()):
            yield f"{kernel} is not in both the PTX and sm_{arch}"
    for pattern, _ in STRUCTS:
        if not any(re.fullmatch(pattern, k) for k in facts.entries):
            yield f"no kernel is called {pattern}"


def gate_local(facts):
    """no local memory, no stack, no spills"""
    for arch in ARCHS:
        for kernel, (_, _, local) in facts.resources[arch].items():
            if local:
                yield f"{kernel}, sm_{arch}: {local} bytes of local memory"
        for kernel, code in facts.code[arch].items():
            used = [t for _, t in code if re.search(LOCAL, t)]
            if used:
                yield f"{kernel}, sm_{arch}: {len(used)} local loads and stores: {used[0]}"


def gate_resources(facts):
    """as many blocks on an SM as resources.csv says, for every kernel and architecture"""
    if not os.path.exists(TABLE):
        yield f"{TABLE} is not there: --update makes it"
        return
    with open(TABLE) as f:
        before = {(r["kernel"], r["arch"]): r for r in csv.DictReader(f)}
    for row in table_now(facts):
        old = before.pop((row["kernel"], row["arch"]), None)
        where = f"{row['kernel']}, sm_{row['arch']}"
        if int(row["blocks_per_sm"]) < 1:
            yield f"{where}: no block fits on an SM"
        elif not old:
            yield f"{where}: not in the table"
        elif int(row["blocks_per_sm"]) < int(old["blocks_per_sm"]):
            yield (f"{where}: {row['blocks_per_sm']} blocks on an SM, were {old['blocks_per_sm']} "
                   f"({row['registers']} registers, were {old['registers']})")
    for kernel, arch in before:
        yield f"{kernel}, sm_{arch}: in the table, but not there"


def gate_instructions(facts):
    """wide loads and tensor cores where the time goes"""
    for arch in ARCHS:
        for kernel, code in facts.code[arch].items():
            for pattern, in_loop, needed, forbidden in INSTRUCTIONS:
                if not re.fullmatch(pattern, kernel):
                    continue
                texts = list(loops_of(code)) if in_loop else ["\n".join(t for _, t in code)]
                if not any(all(re.search(n, t) for n in needed) and not any(re.search(n, t) for n in forbidden) for t in texts):
                    where = "in one loop" if in_loop else "anywhere"
                    without = f" without {', '.join(forbidden)}" if forbidden else ""
                    yield f"{kernel}, sm_{arch}: no {' and '.join(needed)}{without} {where}"


def gate_double(facts):
    """no arithmetic in double outside the sampler"""
    for arch in ARCHS:
        for kernel, code in facts.code[arch].items():
            used = [t for _, t in code if re.search(DOUBLE, t)]
            if used and kernel not in DOUBLE_ALLOWED:
                yield f"{kernel}, sm_{arch}: {used[0]}"
            if not used and kernel in DOUBLE_ALLOWED:
                yield f"{kernel}, sm_{arch}: none found where it must be; the pattern is out of date"


def gate_arguments(facts):
    """what the PTX reads of its parameters is what kernel_args.h puts there"""
    for kernel, entry in sorted(facts.entries.items()):
        struct = struct_of(kernel)
        if not struct:
            yield f"{kernel}: no struct is known for it"
            continue
        size, align, fields = facts.structs[struct]
        if entry["param"] != (size, align):
            yield f"{kernel}: its parameter has {entry['param']} (bytes, alignment), struct {struct} {size, align}"
        for line in entry["escapes"][:1]:
            yield f"{kernel}: does with its parameter's address what this gate cannot follow: {line}"
        for offset, n_bytes in entry["loads"]:
            starts = {o for _, o, _ in fields}
            ends = {o + n for _, o, n in fields}
            if offset not in starts or offset + n_bytes not in ends:
                yield f"{kernel}: reads {n_bytes} bytes at {offset}, where {struct} has no such field"
        if not entry["loads"]:
            yield f"{kernel}: reads no parameter"


def gate_version(facts):
    """the PTX asks for ISA 7.8 and sm_80 at most, and ptxas takes it as such"""
    if not re.search(r"^\.version 7\.8$", facts.ptx, re.M) or not re.search(r"^\.target sm_80$", facts.ptx, re.M):
        yield "kernels.ptx does not begin with .version 7.8, .target sm_80"
    with tempfile.TemporaryDirectory() as tmp:
        try:
            run(f"{facts.bin}/ptxas", "-arch=sm_80", "-o", f"{tmp}/out", f"{facts.images}/kernels.ptx")
        except RuntimeError as e:
            yield str(e).splitlines()[0]


# NVRTC has no headers.
STDINT = b"""
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned uint32_t; typedef unsigned long long uint64_t;
#define UINT32_MAX 0xffffffffu
#define UINT64_MAX 0xffffffffffffffffull
"""


def nvrtc_compile(library):
    """The source by NVRTC, to PTX; its log when it fails."""
    nvrtc = ctypes.CDLL(library)
    program, n = ctypes.c_void_p(), ctypes.c_size_t()
    with open(SOURCE, "rb") as f:
        source = f.read()
    options = [b"-arch=compute_80", b"-std=c++17", b"-default-device", b"-I" + ROOT.encode(),
               b"-I" + os.path.dirname(SOURCE).encode()]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 1, (ctypes.c_char_p * 1)(STDINT),
                              (ctypes.c_char_p * 1)(b"stdint.h"))
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    get_size, get = (nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog) if code else (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    get_size(program, ctypes.byref(n))
    text = ctypes.create_string_buffer(n.value)
    get(program, text)
    return code, text.value.decode()


def gate_nvrtc(facts, library):
    """NVRTC 12.9 compiles the same kernels from the same text"""
    code, text = nvrtc_compile(library)
    if code:
        yield f"nvrtcCompileProgram: {code}: " + " | ".join(text.strip().splitlines()[:3])
        return
    for kernel in sorted(facts.entries.keys() ^ entries_of(text).keys()):
        yield f"{kernel} is not in both nvcc's PTX and NVRTC's"


def report(name, wrong):
    wrong = list(wrong)
    print(f"{'FAILED' if wrong else 'ok':8}{name}" + (f" ({len(wrong)} findings)" if wrong else ""))
    for finding in wrong[:10]:
        print(f"        {finding}")
    return not wrong


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", default=f"{ROOT}/build/release/kernels", help="where the build put cubins and PTX (default: %(default)s)")
    p.add_argument("--toolkit", default=f"{ROOT}/.cuda/nvidia/cu13", help="CUDA toolkit (default: %(default)s)")
    p.add_argument("--nvrtc", default=os.environ.get("ROUSE_NVRTC"),
                   help="libnvrtc.so.12 of CUDA 12.9; default: $ROUSE_NVRTC, and without it that gate is skipped")
    p.add_argument("--update", action="store_true", help="write resources.csv as it is now")
    args = p.parse_args()

    try:
        facts = Facts(args.images, args.toolkit)
    except RuntimeError as e:
        print(f"FAILED {e}\n0 passed, 1 failed")
        return 1
    if args.update:
        table_write(table_now(facts))
    results = [report(gate.__doc__, gate(facts)) for gate in
               (gate_targets, gate_local, gate_resources, gate_instructions, gate_double, gate_arguments, gate_version)]
    if args.nvrtc:
        results.append(report(gate_nvrtc.__doc__, gate_nvrtc(facts, args.nvrtc)))
    else:
        print(f"{'skipped':8}{gate_nvrtc.__doc__}: no --nvrtc and no $ROUSE_NVRTC")
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
