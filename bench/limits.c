/* limits - what this machine can do at best, for the benches to divide by: one JSON line.
 *
 *   limits [FILE]     memory read GB/s, memcpy GB/s, f32 FMA GFLOP/s on all cores; and how fast FILE is read with O_DIRECT
 *
 * Each figure is the best of several passes: a limit is what was reached once. */
#include <fcntl.h>
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/pool.h"

#define MEMORY_BYTES ((size_t)512 << 20)
#define PIECE_BYTES  ((size_t)4 << 20)
#define PASSES       7

static uint8_t *memory, *copy;
static volatile uint64_t sink;
static int fd = -1;
static uint64_t file_bytes;

static void read_memory(void *context, uint32_t task, uint32_t thread)
{
    (void)context, (void)thread;
    const uint64_t *p = (const uint64_t *)(memory + (size_t)task * PIECE_BYTES);
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < PIECE_BYTES / 8; i += 16) {
        a ^= p[i] ^ p[i + 1] ^ p[i + 2] ^ p[i + 3];
        b ^= p[i + 4] ^ p[i + 5] ^ p[i + 6] ^ p[i + 7];
        c ^= p[i + 8] ^ p[i + 9] ^ p[i + 10] ^ p[i + 11];
        d ^= p[i + 12] ^ p[i + 13] ^ p[i + 14] ^ p[i + 15];
    }
    sink = a ^ b ^ c ^ d;
}

static void copy_memory(void *context, uint32_t task, uint32_t thread)
{
    (void)context, (void)thread;
    memcpy(copy + (size_t)task * PIECE_BYTES, memory + (size_t)task * PIECE_BYTES, PIECE_BYTES);
}

static void read_file(void *context, uint32_t task, uint32_t thread)
{
    (void)context;
    uint64_t at = (uint64_t)task * PIECE_BYTES;
    if (at + PIECE_BYTES <= file_bytes && pread(fd, memory + thread * PIECE_BYTES, PIECE_BYTES, (off_t)at) < 0)
        perror("pread");
}

#define FMA_ROUNDS 4000000

__attribute__((target("avx2,fma"))) static void multiply(void *context, uint32_t task, uint32_t thread)
{
    (void)context, (void)task, (void)thread;
    __m256 acc[10], x = _mm256_set1_ps(1.0000001f), y = _mm256_set1_ps(1e-9f);
#pragma GCC unroll 10 /* so that the accumulators are registers */
    for (int i = 0; i < 10; i++)
        acc[i] = _mm256_set1_ps((float)i);
    for (int r = 0; r < FMA_ROUNDS; r++)
#pragma GCC unroll 10
        for (int i = 0; i < 10; i++)
            acc[i] = _mm256_fmadd_ps(acc[i], x, y);
    float out[8];
#pragma GCC unroll 10
    for (int i = 1; i < 10; i++)
        acc[0] = _mm256_add_ps(acc[0], acc[i]);
    _mm256_storeu_ps(out, acc[0]);
    sink = (uint64_t)out[0];
}

static double best_seconds(struct base_pool *pool, base_pool_fn *fn, uint32_t n_tasks)
{
    double best = 1e30;
    for (int i = 0; i < PASSES; i++) {
        uint64_t began = base_clock_mono_ns();
        base_pool_run(pool, fn, NULL, n_tasks);
        double s = (double)(base_clock_mono_ns() - began) / 1e9;
        best = s < best ? s : best;
    }
    return best;
}

int main(int argc, char **argv)
{
    struct base_error err = {0};
    struct base_pool *pool = NULL;
    if (base_pool_new(0, &pool, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    uint32_t n = base_pool_n_threads(pool), n_pieces = MEMORY_BYTES / PIECE_BYTES;
    memory = mmap(NULL, 2 * MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    madvise(memory, 2 * MEMORY_BYTES, MADV_HUGEPAGE);
    memset(memory, 1, 2 * MEMORY_BYTES);
    copy = memory + MEMORY_BYTES;
    printf("{\"threads\":%u,\"read_gbs\":%.2f,\"memcpy_gbs\":%.2f", n,
           MEMORY_BYTES / best_seconds(pool, read_memory, n_pieces) / 1e9,
           MEMORY_BYTES / best_seconds(pool, copy_memory, n_pieces) / 1e9);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        printf(",\"fma_gflops\":%.1f", 160.0 * FMA_ROUNDS * n / best_seconds(pool, multiply, n) / 1e9);
    struct stat st;
    if (argc > 1 && (fd = open(argv[1], O_RDONLY | O_DIRECT)) >= 0 && fstat(fd, &st) == 0) {
        file_bytes = (uint64_t)st.st_size;
        uint32_t n_file = (uint32_t)(file_bytes / PIECE_BYTES);
        uint64_t began = base_clock_mono_ns();
        struct base_pool *readers = NULL; /* a disk wants more requests in flight than there are cores */
        if (n_file && base_pool_new(8, &readers, &err) == 0) {
            began = base_clock_mono_ns();
            base_pool_run(readers, read_file, NULL, n_file);
            printf(",\"disk_gbs\":%.2f", (double)n_file * PIECE_BYTES / ((double)(base_clock_mono_ns() - began)));
        }
        base_pool_free(readers);
        close(fd);
    }
    puts("}");
    base_pool_free(pool);
    return 0;
}
