/* matmul - y = x w^T for few rows of x: bound by reading the weights, which therefore go from global memory straight into the
 * registers that the tensor cores take, 16 bytes a load, each byte once.
 *
 * An mma wants from lane (g, c) = (lane / 4, lane % 4) the columns 2c, 2c+1, 2c+8, 2c+9 of row g. Which k those columns stand
 * for is free as long as w and x agree. So lane (g, c) loads 16 bytes on end of row g, the four lanes of a row 64 bytes on
 * end, and what it holds are its columns of several mmas: no shuffle and no shared memory between memory and tensor core.
 *
 *   w: 16 rows are the mma's rows     x: 8 tokens are the mma's columns     K: warp i takes runs i, i + 8, i + 16 ...
 *
 * A run is 64 bytes of each weight row. A warp keeps several runs of w on their way: as soon as one is multiplied, its
 * registers are filled again. The eight partial sums of an output meet in shared memory and are added in the warps' order. An
 * output's runs, their order and the mmas in them are the same for every t, so its bits are. */
#ifndef ROUSE_GPU_CUDA_MATMUL_CUH
#define ROUSE_GPU_CUDA_MATMUL_CUH

#include "gelu.cuh"
#include "half.cuh"

enum {
    MATMUL_PITCH = 20, /* floats from token to token of a partial sum, for 16: stores and loads hit 32 banks */
    MATMUL_THREADS = CUDA_MATMUL_WARPS * CUDA_WARP
};

/* From memory that is read once: L1 keeps x instead. */
static __device__ __forceinline__ uint4 load_16_once(const void *from)
{
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(from));
    return v;
}

/* ---- weights: what 16 bytes hold ----
 *
 * piece: elements of k in 16 bytes. eight: eight of them, the which-th eight, as pairs of halves in order. */

template <class half_> struct matmul_halves {
    using half = half_;
    static constexpr uint32_t bytes = 2, piece = 8;
    static constexpr bool scaled = false;

    static __device__ __forceinline__ void eight(uint4 v, int32_t, uint32_t (&to)[4])
    {
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
};

/* Two bytes of v, as the low bytes of two halves whose high bytes are `high`. */
template <int which> static __device__ __forceinline__ uint32_t spread(uint32_t v, uint32_t high)
{
    return __byte_perm(v, high, which == 0 ? 0x4140 : 0x4342);
}

/* Four int8 to two pairs, exactly: with its sign bit turned, b is b + 128 without a sign, and 0x6400 | that is
 * 1024 + b + 128. */
static __device__ __forceinline__ void int8_to_pairs(uint32_t v, uint32_t &low, uint32_t &high)
{
    const uint32_t one = 0x3c003c00, minus_1152 = 0xe480e480;
    v ^= 0x80808080;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(low) : "r"(spread<0>(v, 0x64)), "r"(one), "r"(minus_1152));
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(high) : "r"(spread<1>(v, 0x64)), "r"(one), "r"(minus_1152));
}

struct matmul_int8 {
    using half = f16;
    static constexpr uint32_t bytes = 1, piece = 16;
    static constexpr bool scaled = true;

    static __device__ __forceinline__ void eight(uint4 v, int32_t which, uint32_t (&to)[4])
    {
        int8_to_pairs(which ? v.z : v.x, to[0], to[1]);
        int8_to_pairs(which ? v.w : v.y, to[2], to[3]);
    }
};

/* ---- one block ---- */

/* One lane: where it reads, what is on its way. Rows past the end are the last one again: read, multiplied, never stored. */
template <class weights, int t> struct matmul_lane {
    static constexpr int32_t piece = weights::piece, run = 4 * piece; /* k in a lane's 16 bytes, in a row's 64 */
    static constexpr int32_t stride = CUDA_MATMUL_WARPS * run;        /* from run to run of a warp */
    static constexpr int row_tiles = cuda_matmul_block_rows(t) / 16, token_tiles = t / 8;
    /* Runs on their way: 32 KiB a block, and half of it where int8's wider runs of x want the registers. */
    static constexpr int depth = t <= 16 ? 4 : t == 64 && weights::scaled ? 1 : 2;

    const uint8_t *w[2 * row_tiles]; /* weight rows g, g + 8, ..., at the next run to load */
    const uint16_t *x[token_tiles];  /* tokens g, g + 8, ..., at the next run to multiply */
    int32_t w_left, x_left;          /* of K from there on; nothing is read behind it */
    uint4 runs[depth][2 * row_tiles];
    float sums[row_tiles][token_tiles][4];

    __device__ __forceinline__ matmul_lane(const struct cuda_matmul_args &a, uint32_t n_tokens) : sums()
    {
        const uint32_t g = threadIdx.x % CUDA_WARP / 4;
        const uint32_t first = threadIdx.x / CUDA_WARP * run + threadIdx.x % 4 * piece;
#pragma unroll
        for (uint32_t i = 0; i < 2 * row_tiles; i++) {
            const size_t row = min(blockIdx.x * 16 * row_tiles + 8 * i + g, a.n - 1);
            w[i] = (const uint8_t *)a.w + (row * a.k + first) * weights::bytes;
        }
#pragma unroll
        for (uint32_t i = 0; i < token_tiles; i++)
            x[i] = a.x + (size_t)min(blockIdx.y * t + 8 * i + g, n_tokens - 1) * a.k + first;
        w_left = x_left = (int32_t)(a.k - first);
    }

    /* Run `slot` from the next on, zeros behind K. */
    __device__ __forceinline__ void fill(int32_t slot)
    {
#pragma unroll
        for (uint32_t i = 0; i < 2 * row_tiles; i++)
            runs[slot][i] = slot * stride < w_left ? load_16_once(w[i] + slot * stride * (int32_t)weights::bytes)
                                                   : make_uint4(0, 0, 0, 0);
    }

    /* Eight elements of one token, from k of the next run on. */
    __device__ __forceinline__ uint4 activations(uint32_t i, int32_t k) const
    {
        return k < x_left ? load_16(x[i] + k) : make_uint4(0, 0, 0, 0);
    }

    /* sums += the products of eight k: two mmas for each tile of rows and tokens. */
    __device__ __forceinline__ void multiply_eight(const uint32_t (&rows)[2 * row_tiles][4], int32_t k)
    {
#pragma unroll
        for (uint32_t i = 0; i < token_tiles; i++) {
            const uint4 tokens = activations(i, k);
#pragma unroll
            for (uint32_t m = 0; m < row_tiles; m++) {
                const uint32_t first[4] = {rows[2 * m][0], rows[2 * m + 1][0], rows[2 * m][1], rows[2 * m + 1][1]};
                const uint32_t second[4] = {rows[2 * m][2], rows[2 * m + 1][2], rows[2 * m][3], rows[2 * m + 1][3]};
                weights::half::mma(sums[m][i], first, tokens.x, tokens.y);
                weights::half::mma(sums[m][i], second, tokens.z, tokens.w);
            }
        }
    }

    /* sums += the products of run `slot`. */
    __device__ __forceinline__ void multiply(int32_t slot)
    {
#pragma unroll
        for (int32_t which = 0; which < piece / 8; which++) {
            uint32_t rows[2 * row_tiles][4];
#pragma unroll
            for (uint32_t i = 0; i < 2 * row_tiles; i++)
                weights::eight(runs[slot][i], which, rows[i]);
            multiply_eight(rows, slot * stride + 8 * which);
        }
    }

    /* All runs on their way; then each once multiplied and filled again. */
    __device__ __forceinline__ void fill_all(void)
    {
#pragma unroll
        for (int32_t slot = 0; slot < depth; slot++)
            fill(slot);
        advance_w();
    }

    __device__ __forceinline__ void multiply_all(void)
    {
#pragma unroll
        for (int32_t slot = 0; slot < depth; slot++) {
            multiply(slot);
            fill(slot);
        }
        advance_w();
        advance_x();
    }

    __device__ __forceinline__ void advance_w(void)
    {
#pragma unroll
        for (uint32_t i = 0; i < 2 * row_tiles; i++)
            w[i] += depth * stride * (int32_t)weights::bytes;
        w_left -= depth * stride;
    }

    __device__ __forceinline__ void advance_x(void)
    {
#pragma unroll
        for (uint32_t i = 0; i < token_tiles; i++)
            x[i] += depth * stride;
        x_left -= depth * stride;
    }
};

/* One output that is complete. */
template <class half>
static __device__ __forceinline__ void matmul_finish(const struct cuda_matmul_args &a, uint32_t token, uint32_t row,
                                                     float sum)
{
    const size_t at = (size_t)token * a.n + row;
    if (a.bias)
        sum = __fadd_rn(sum, __ldg(a.bias + row));
    switch (a.after) {
    case CUDA_AFTER_HALF:
        ((uint16_t *)a.y)[at] = half::narrow(sum);
        break;
    case CUDA_AFTER_GELU:
        ((uint16_t *)a.y)[at] = half::narrow(gelu_of(a.act, sum));
        break;
    case CUDA_AFTER_ADD:
        ((float *)a.y)[at] = __fadd_rn(((float *)a.y)[at], sum);
        break;
    default:
        ((float *)a.y)[at] = sum;
    }
}

/* The warps' sums of row tile m of the block, through shared memory, in order. */
template <class weights, int t>
static __device__ __forceinline__ void matmul_merge(const struct cuda_matmul_args &a, uint32_t n_tokens, uint32_t m,
                                                    const matmul_lane<weights, t> &of,
                                                    float (&parts)[CUDA_MATMUL_WARPS][t][MATMUL_PITCH])
{
    constexpr uint32_t last_tile = matmul_lane<weights, t>::row_tiles - 1; /* there are two at most */
    const uint32_t warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP, g = lane / 4, c = lane % 4;
#pragma unroll
    for (uint32_t i = 0; i < t / 8; i++)
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            parts[warp][8 * i + 2 * c + j % 2][g + j / 2 * 8] = m == 0 ? of.sums[0][i][j] : of.sums[last_tile][i][j];
    __syncthreads();
    /* Half a warp a token, the two of a warp four apart: with the pitch above these are different banks. */
#pragma unroll 1
    for (uint32_t i = warp; i < t / 2; i += CUDA_MATMUL_WARPS) {
        const uint32_t of_block = i / 4 * 8 + i % 4 + lane / 16 * 4;
        const uint32_t token = blockIdx.y * t + of_block, row = (blockIdx.x * (last_tile + 1) + m) * 16 + lane % 16;
        float sum = parts[0][of_block][lane % 16];
#pragma unroll
        for (uint32_t w = 1; w < CUDA_MATMUL_WARPS; w++)
            sum = __fadd_rn(sum, parts[w][of_block][lane % 16]);
        if (token < n_tokens && row < a.n) {
            if (weights::scaled)
                sum = __fmul_rn(sum, __ldg(a.scale + row));
            matmul_finish<typename weights::half>(a, token, row, sum);
        }
    }
}

template <class weights, int t> static __device__ __forceinline__ void matmul_kernel(const struct cuda_matmul_args &a)
{
    using lane_type = matmul_lane<weights, t>;
    __shared__ float parts[CUDA_MATMUL_WARPS][t][MATMUL_PITCH];
    const uint32_t n_tokens = a.logits ? a.counts->n_logits : a.counts->n_rows;
    if (blockIdx.y * t >= n_tokens)
        return;
    lane_type lane(a, n_tokens);
    lane.fill_all();
#pragma unroll 1
    for (int32_t begin = threadIdx.x / CUDA_WARP * lane_type::run; begin < (int32_t)a.k;
         begin += lane_type::depth * lane_type::stride)
        lane.multiply_all();
#pragma unroll 1
    for (uint32_t m = 0; m < lane_type::row_tiles; m++) {
        if (m > 0)
            __syncthreads(); /* the last tile's parts have been read */
        matmul_merge<weights, t>(a, n_tokens, m, lane, parts);
    }
}

#endif
