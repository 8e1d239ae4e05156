/* hash - XXH3-64 of snapshot chunks, the bits of libxxhash (seed 0, its default secret, inputs of more than 240 bytes).
 *
 * XXH3 keeps eight sums of 64 bits. A block of 1024 bytes is 16 stripes of 64; a stripe adds to each sum something that
 * depends on the stripe and its number alone, so a block's 16 stripes can be added in any order, by 32 lanes at once. Behind
 * each block the sums are scrambled, which is the one chain from block to block: five dependent instructions or so per KiB.
 *
 * Lane l loads pieces l and l + 32 of a block's 64 pieces of 16 bytes: a warp's load is 512 bytes on end. A piece of stripe s
 * at 16 p adds to sums 2p and 2p + 1; the eight lanes with the same p fold theirs in three steps, of which the first trades
 * one of the two sums for the other, so that each lane goes on with one. Four lanes end up with the same sum. */
#ifndef ROUSE_GPU_CUDA_HASH_CUH
#define ROUSE_GPU_CUDA_HASH_CUH

#include "half.cuh"

enum {
    HASH_STRIPE = 64,
    HASH_BLOCK = 1024,
    HASH_AHEAD = 4 /* blocks on their way while as many are added: 4 KiB a warp */
};

/* XXH3's default secret of 192 bytes, as little-endian words. */
static __constant__ uint64_t hash_secret[24] = {
    0xbe4ba423396cfeb8u, 0x1cad21f72c81017cu, 0xdb979083e96dd4deu, 0x1f67b3b7a4a44072u, 0x78e5c0cc4ee679cbu,
    0x2172ffcc7dd05a82u, 0x8e2443f7744608b8u, 0x4c263a81e69035e0u, 0xcb00c391bb52283cu, 0xa32e531b8b65d088u,
    0x4ef90da297486471u, 0xd8acdea946ef1938u, 0x3f349ce33f76faa8u, 0x1d4f0bc7c7bbdcf9u, 0x3159b4cd4be0518au,
    0x647378d9c97e9fc8u, 0xc3ebd33483acc5eau, 0xeb6313faffa081c5u, 0x49daf0b751dd0d17u, 0x9e68d429265516d3u,
    0xfca1477d58be162bu, 0xce31d07ad1b8f88fu, 0x280416958f3acb45u, 0x7e404bbbcafbd7afu,
};

/* 64 bits of it from any byte on. */
static __device__ __forceinline__ uint64_t hash_secret_at(uint32_t byte)
{
    const uint32_t shift = byte % 8 * 8;
    const uint64_t low = hash_secret[byte / 8] >> shift;
    return shift ? low | hash_secret[byte / 8 + 1] << (64 - shift) : low;
}

#define HASH_PRIME32_1 0x9E3779B1u
#define HASH_PRIME64_1 0x9E3779B185EBCA87u

/* The sums that all inputs begin with. */
static __constant__ uint64_t hash_initial[8] = {0xC2B2AE3Du,         HASH_PRIME64_1,      0xC2B2AE3D27D4EB4Fu,
                                                0x165667B19E3779F9u, 0x85EBCA77C2B2AE63u, 0x85EBCA77u,
                                                0x27D4EB2F165667C5u, HASH_PRIME32_1};

static __device__ __forceinline__ uint64_t hash_word(uint32_t low, uint32_t high)
{
    return (uint64_t)high << 32 | low;
}

/* What one lane adds to sums 2p and 2p + 1. */
struct hash_pair {
    uint64_t even, odd;
};

static __device__ __forceinline__ void hash_add(struct hash_pair &sums, uint64_t even, uint64_t odd, uint64_t key_even,
                                                uint64_t key_odd)
{
    const uint64_t a = even ^ key_even, b = odd ^ key_odd;
    sums.even += odd + (uint64_t)(uint32_t)a * (uint32_t)(a >> 32);
    sums.odd += even + (uint64_t)(uint32_t)b * (uint32_t)(b >> 32);
}

static __device__ __forceinline__ void hash_add_piece(struct hash_pair &sums, uint4 v, uint64_t key_even,
                                                      uint64_t key_odd)
{
    hash_add(sums, hash_word(v.x, v.y), hash_word(v.z, v.w), key_even, key_odd);
}

/* Of all lanes with this one's p, the sum that this lane keeps: 2p for lanes with bit 2 clear, else 2p + 1. */
static __device__ __forceinline__ uint64_t hash_fold(struct hash_pair sums, bool keeps_odd)
{
    uint64_t kept = keeps_odd ? sums.odd : sums.even;
    kept += __shfl_xor_sync(WARP_ALL, keeps_odd ? sums.even : sums.odd, 4);
    kept += __shfl_xor_sync(WARP_ALL, kept, 8);
    kept += __shfl_xor_sync(WARP_ALL, kept, 16);
    return kept;
}

static __device__ __forceinline__ uint64_t hash_scramble(uint64_t sum, uint64_t key)
{
    return (sum ^ sum >> 47 ^ key) * HASH_PRIME32_1;
}

/* 8 bytes of any alignment. */
static __device__ __forceinline__ uint64_t hash_load_word(const uint8_t *from)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | __ldg(from + i);
    return v;
}

/* The eight sums to 64 bits. */
static __device__ __forceinline__ uint64_t hash_finish(uint64_t sum, uint64_t n_bytes)
{
    uint64_t h = n_bytes * HASH_PRIME64_1;
    for (uint32_t p = 0; p < 4; p++) {
        const uint64_t even = __shfl_sync(WARP_ALL, sum, p) ^ hash_secret_at(11 + 16 * p);
        const uint64_t odd = __shfl_sync(WARP_ALL, sum, p + 4) ^ hash_secret_at(19 + 16 * p);
        h += even * odd ^ __umul64hi(even, odd);
    }
    h = (h ^ h >> 37) * 0x165667919E3779F9u;
    return h ^ h >> 32;
}

static __device__ __forceinline__ void hash_kernel(const struct cuda_hash_args &a)
{
    const uint64_t begin = (uint64_t)blockIdx.x * CUDA_HASH_BYTES, left = a.n_bytes - begin;
    const uint32_t n_bytes = left < CUDA_HASH_BYTES ? (uint32_t)left : CUDA_HASH_BYTES;
    const uint32_t lane = threadIdx.x, stripe = lane / 4, p = lane % 4, sum_index = 2 * p + stripe % 2;
    const uint64_t key[2][2] = {{hash_secret[stripe + 2 * p], hash_secret[stripe + 2 * p + 1]},
                                {hash_secret[stripe + 8 + 2 * p], hash_secret[stripe + 8 + 2 * p + 1]}};
    const uint64_t scramble_key = hash_secret[16 + sum_index];
    const uint8_t *chunk = a.bytes + begin;
    const uint4 *from = (const uint4 *)chunk + lane;
    const uint32_t n_blocks = (n_bytes - 1) / HASH_BLOCK, pieces = HASH_BLOCK / 16;
    const bool keeps_odd = stripe % 2;
    uint64_t sum = hash_initial[sum_index];
    uint4 next[HASH_AHEAD][2];

#pragma unroll
    for (uint32_t i = 0; i < HASH_AHEAD; i++) { /* n_bytes >= 4096: three whole blocks at least */
        const uint4 *piece = from + min(i, n_blocks - 1) * pieces;
        next[i][0] = load_16(piece);
        next[i][1] = load_16(piece + CUDA_WARP);
    }
    uint32_t block = 0;
    for (; block + HASH_AHEAD <= n_blocks; block += HASH_AHEAD) {
        uint64_t sums[HASH_AHEAD];
#pragma unroll
        for (uint32_t i = 0; i < HASH_AHEAD; i++) {
            struct hash_pair pair = {0, 0};
            hash_add_piece(pair, next[i][0], key[0][0], key[0][1]);
            hash_add_piece(pair, next[i][1], key[1][0], key[1][1]);
            /* Behind the last whole block, that one again: read, not used. */
            const uint4 *piece = from + (size_t)min(block + HASH_AHEAD + i, n_blocks - 1) * pieces;
            next[i][0] = load_16(piece);
            next[i][1] = load_16(piece + CUDA_WARP);
            sums[i] = hash_fold(pair, keeps_odd);
        }
#pragma unroll
        for (uint32_t i = 0; i < HASH_AHEAD; i++)
            sum = hash_scramble(sum + sums[i], scramble_key);
    }
#pragma unroll
    for (uint32_t i = 0; i < HASH_AHEAD - 1; i++) { /* up to three more, which are here already */
        struct hash_pair pair = {0, 0};
        hash_add_piece(pair, next[i][0], key[0][0], key[0][1]);
        hash_add_piece(pair, next[i][1], key[1][0], key[1][1]);
        const uint64_t scrambled = hash_scramble(sum + hash_fold(pair, keeps_odd), scramble_key);
        sum = block + i < n_blocks ? scrambled : sum;
    }

    /* The block that is not whole: its whole stripes, then the last 64 bytes once more, with a key of their own. */
    const uint32_t n_stripes = (n_bytes - 1 - n_blocks * HASH_BLOCK) / HASH_STRIPE;
    const uint4 *rest = from + (size_t)n_blocks * pieces;
    struct hash_pair pair = {0, 0};
    if (stripe < n_stripes)
        hash_add_piece(pair, load_16(rest), key[0][0], key[0][1]);
    if (stripe + 8 < n_stripes)
        hash_add_piece(pair, load_16(rest + CUDA_WARP), key[1][0], key[1][1]);
    if (stripe == 0) {
        const uint8_t *last = chunk + n_bytes - HASH_STRIPE + 16 * p;
        hash_add(pair, hash_load_word(last), hash_load_word(last + 8), hash_secret_at(121 + 16 * p),
                 hash_secret_at(129 + 16 * p));
    }
    sum += hash_fold(pair, keeps_odd);
    const uint64_t hash = hash_finish(sum, n_bytes);
    if (lane == 0)
        a.hashes[blockIdx.x] = hash;
}

#endif
