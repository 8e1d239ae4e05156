/* isa_test - instructions against plain C++: each case of isa_cases.h over edges and random values, then lanes, matrices,
 * memory and control against loops that do the same one lane at a time. */
#include <algorithm>
#include <cmath>
#include <random>

#include "isa_expect.h"
#include "selftest.h"

namespace
{

/* --- the cases ---------------------------------------------------------------------------------------------------- */

enum compare_kind { KIND_EXACT, KIND_F32, KIND_F64, KIND_F16, KIND_BF16, KIND_F16X2, KIND_BF16X2, KIND_ULPS = 100 };
#define KIND_ULP(n) KIND_ULPS + n

struct isa_case {
    const char *name;
    size_t bytes[4]; /* of r, x, y, z; 0: not there */
    int compare;
    bool real[4];
    void (*expect)(const uint8_t *x, const uint8_t *y, const uint8_t *z, uint8_t *r);
};

template <class T> T get(const uint8_t *p)
{
    T x;
    memcpy(&x, p, sizeof x);
    return x;
}

template <class R, class X, class Y, class Z, class F>
void expect_one(F f, const uint8_t *px, const uint8_t *py, const uint8_t *pz, uint8_t *pr)
{
    R r = static_cast<R>(f(get<X>(px), get<Y>(py), get<Z>(pz)));
    memcpy(pr, &r, sizeof r);
}

#define ENTRY(name, R, X, Y, Z, ny, nz, compare, value)                                                                \
    {#name,                                                                                                            \
     {sizeof(R), sizeof(X), ny, nz},                                                                                   \
     KIND_##compare,                                                                                                   \
     {std::is_floating_point_v<R>, std::is_floating_point_v<X>, std::is_floating_point_v<Y>,                           \
      std::is_floating_point_v<Z>},                                                                                    \
     [](const uint8_t *px, const uint8_t *py, const uint8_t *pz, uint8_t *pr) {                                        \
         expect_one<R, X, Y, Z>(                                                                                       \
             []([[maybe_unused]] X x, [[maybe_unused]] Y y, [[maybe_unused]] Z z) { return value; }, px, py, pz, pr);  \
     }},
#define CASE1(name, R, X, compare, instruction, value)    ENTRY(name, R, X, X, X, 0, 0, compare, value)
#define CASE2(name, R, X, Y, compare, instruction, value) ENTRY(name, R, X, Y, Y, sizeof(Y), 0, compare, value)
#define CASE3(name, R, X, Y, Z, compare, instruction, value)                                                           \
    ENTRY(name, R, X, Y, Z, sizeof(Y), sizeof(Z), compare, value)

const isa_case cases[] = {
#include "isa_cases.h"
};

using random_source = std::mt19937_64;

constexpr size_t N_VALUES = 3000;

uint64_t edge_integer(random_source &random)
{
    static const uint64_t edges[] = {0,
                                     1,
                                     2,
                                     3,
                                     7,
                                     8,
                                     15,
                                     16,
                                     17,
                                     31,
                                     32,
                                     33,
                                     63,
                                     64,
                                     65,
                                     99,
                                     100,
                                     127,
                                     128,
                                     255,
                                     256,
                                     0x7fff,
                                     0x8000,
                                     0xffff,
                                     0x10000,
                                     0x7fffff,
                                     0x800000,
                                     0xffffff,
                                     0x1000000,
                                     0x1000001,
                                     0x7fffffff,
                                     0x80000000,
                                     0x80000001,
                                     0xffffffff,
                                     0x100000000,
                                     0x1fffffffffffff,
                                     0x20000000000001,
                                     0x3fffffffffffff,
                                     0x7fffffffffffffff,
                                     0x8000000000000000,
                                     0xfffffffffffffc00,
                                     0xffffffff00000001};
    uint64_t x = edges[random() % (sizeof edges / sizeof edges[0])];
    return random() % 3 ? x : 0 - x;
}

double edge_real(random_source &random)
{
    static const double edges[] = {0,
                                   1,
                                   0.5,
                                   1.5,
                                   2.5,
                                   3,
                                   65504,
                                   65519,
                                   65520,
                                   65536,
                                   0x1p-24,
                                   0x1p-25,
                                   0x1.8p-25,
                                   0x1.000002p-25,
                                   0x1p-14,
                                   0x1.ffcp-15,
                                   0x1.002p0,
                                   0x1.001p0,
                                   0x1.003p0,
                                   0x1.01p0,
                                   0x1.03p0,
                                   0x1.010002p0,
                                   0x1p-126,
                                   0x1p-127,
                                   0x1p-149,
                                   0x1.fffffep127,
                                   0x1.fep127,
                                   0x1.ffp127,
                                   0x1p126,
                                   0x1.8p126,
                                   0x1p-133,
                                   0x1p-134,
                                   2147483647,
                                   2147483648.0,
                                   4294967295.0,
                                   4294967296.0,
                                   9.3e18,
                                   1.8e19,
                                   0.9999999,
                                   1e-3,
                                   100,
                                   HUGE_VAL,
                                   NAN,
                                   0x1p-1030,
                                   0x1p1000};
    double x = edges[random() % (sizeof edges / sizeof edges[0])];
    return random() % 2 ? x : -x;
}

/* A third edges, a third of moderate size, a third any bits. */
void fill(std::vector<uint8_t> &out, size_t bytes, bool real, random_source &random)
{
    out.resize(bytes * N_VALUES + 1);
    for (size_t i = 0; i < N_VALUES; i++) {
        uint64_t u = random();
        unsigned kind = static_cast<unsigned>(random() % 3);
        double d = kind == 0 ? edge_real(random)
                             : std::ldexp(static_cast<double>(static_cast<int64_t>(u)), -63) * (i % 2 ? 4 : 200);
        float f = static_cast<float>(d);
        if (kind < 2 && real)
            bytes == 4 ? memcpy(&u, &f, 4) : memcpy(&u, &d, 8);
        else if (kind == 0)
            u = edge_integer(random);
        else if (kind == 1 && bytes > 2)
            u %= 200;
        memcpy(&out[i * bytes], &u, bytes);
    }
}

template <class T, class B> bool ulps_apart(B a, B b, int most)
{
    T x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    if (std::isnan(x) || std::isnan(y))
        return std::isnan(x) != std::isnan(y);
    using S = std::make_signed_t<B>;
    auto ordered = [](S s) { return s < 0 ? std::numeric_limits<S>::min() - s : s; };
    __int128 distance = static_cast<__int128>(ordered(static_cast<S>(a))) - ordered(static_cast<S>(b));
    return distance > most || distance < -most;
}

template <class F> bool halves_differ(F f, uint32_t a, uint32_t b, int n)
{
    for (int k = 0; k < n; k++, a >>= 16, b >>= 16) {
        uint16_t x = static_cast<uint16_t>(a), y = static_cast<uint16_t>(b);
        if (x != y && !(is_nan(f, x) && is_nan(f, y)))
            return true;
    }
    return false;
}

bool differ(const isa_case &c, uint64_t a, uint64_t b)
{
    switch (c.compare) {
    case KIND_EXACT:
        return a != b;
    case KIND_F16:
        return halves_differ(F16(), static_cast<uint32_t>(a), static_cast<uint32_t>(b), 1);
    case KIND_BF16:
        return halves_differ(BF16(), static_cast<uint32_t>(a), static_cast<uint32_t>(b), 1);
    case KIND_F16X2:
        return halves_differ(F16(), static_cast<uint32_t>(a), static_cast<uint32_t>(b), 2);
    case KIND_BF16X2:
        return halves_differ(BF16(), static_cast<uint32_t>(a), static_cast<uint32_t>(b), 2);
    default:
        int ulps = c.compare >= KIND_ULPS ? c.compare - KIND_ULPS : 0;
        return c.bytes[0] == 4 ? ulps_apart<float>(static_cast<uint32_t>(a), static_cast<uint32_t>(b), ulps)
                               : ulps_apart<double>(a, b, ulps);
    }
}

uint64_t bits_at(const std::vector<uint8_t> &v, size_t bytes, size_t i)
{
    uint64_t u = 0;
    if (bytes)
        memcpy(&u, &v[i * bytes], bytes);
    return u;
}

void run_case(const ptx_module *module, const isa_case &c, random_source &random, selftest_count &count)
{
    const ptx_kernel *k = ptx_find(module, (std::string("isa_") + c.name).c_str());
    if (!k)
        return count.check(false, c.name, "no such kernel");
    std::vector<uint8_t> in[4];
    struct {
        uint64_t x, y, z, r;
        uint32_t n;
    } args = {0, 0, 0, 0, N_VALUES};
    selftest_machine m({});
    for (int o = 1; o < 4; o++)
        fill(in[o], c.bytes[o] ? c.bytes[o] : 8, c.real[o], random);
    args.x = m.upload(in[1]);
    args.y = m.upload(in[2]);
    args.z = m.upload(in[3]);
    args.r = m.memory.alloc(c.bytes[0] * N_VALUES);
    bool ran = m.launch(k, (N_VALUES + 127) / 128, 128, args) && m.reports.empty();
    std::vector<uint8_t> got = m.download<uint8_t>(args.r, c.bytes[0] * N_VALUES);
    std::string wrong = m.said();
    unsigned n_wrong = 0;
    for (size_t i = 0; i < N_VALUES && ran; i++) {
        uint64_t want = 0, have = bits_at(got, c.bytes[0], i);
        auto at = [&](int o) { return &in[o][i * (c.bytes[o] ? c.bytes[o] : 8)]; };
        c.expect(at(1), at(2), at(3), reinterpret_cast<uint8_t *>(&want));
        if (!differ(c, have, want) || n_wrong++ > 2)
            continue;
        char text[200];
        snprintf(text, sizeof text, "\n    x %llx y %llx z %llx gives %llx, expected %llx",
                 (unsigned long long)bits_at(in[1], c.bytes[1], i), (unsigned long long)bits_at(in[2], c.bytes[2], i),
                 (unsigned long long)bits_at(in[3], c.bytes[3], i), (unsigned long long)have, (unsigned long long)want);
        wrong += text;
    }
    count.check(ran && n_wrong == 0, c.name, std::to_string(n_wrong) + " values" + wrong);
}

/* --- lanes -------------------------------------------------------------------------------------------------------- */

using row = std::vector<uint32_t>;

row each(uint32_t (*f)(uint32_t l, const row &x), const row &x)
{
    row r(32);
    for (uint32_t l = 0; l < 32; l++)
        r[l] = f(l, x);
    return r;
}

template <class F> row same(F f, const row &x, uint32_t first)
{
    uint32_t r = first;
    for (uint32_t v : x)
        r = f(r, v);
    return row(32, r);
}

/* In the order of the kernel `lanes`. */
std::vector<row> expected_lanes(const row &x)
{
    using u = uint32_t;
    std::vector<row> e;
    e.push_back(each([](u l, const row &v) { return v[(l * 7 + 3) % 32]; }, x));
    e.push_back(each([](u l, const row &v) { return v[l / 8 * 8 + 5]; }, x));
    e.push_back(each([](u l, const row &v) { return v[l < 3 ? l : l - 3]; }, x));
    e.push_back(each([](u l, const row &v) { return v[l % 8 < 2 ? l : l - 2]; }, x));
    e.push_back(each([](u l, const row &v) { return v[l + 5 > 31 ? l : l + 5]; }, x));
    e.push_back(each([](u l, const row &v) { return v[l % 4 == 3 ? l : l + 1]; }, x));
    e.push_back(each([](u l, const row &v) { return v[l ^ 21]; }, x));
    e.push_back(each([](u l, const row &v) { return v[l ^ 5]; }, x));
    u ballot = 0;
    for (u l = 0; l < 32; l++)
        ballot |= (x[l] & 1) << l;
    e.push_back(row(32, ballot));
    e.push_back(row(32, std::find(x.begin(), x.end(), 77u) != x.end()));
    e.push_back(row(32, std::all_of(x.begin(), x.end(), [](u v) { return v < 1000; })));
    e.push_back(each(
        [](u l, const row &v) {
            u m = 0;
            for (u k = 0; k < 32; k++)
                m |= u((v[k] & 3) == (v[l] & 3)) << k;
            return m;
        },
        x));
    bool all = std::all_of(x.begin(), x.end(), [&](u v) { return v >> 20 == x[0] >> 20; });
    e.push_back(row(32, all ? ~0u : 0));
    e.push_back(row(32, all));
    e.push_back(same([](u a, u b) { return a + b; }, x, 0));
    e.push_back(same([](u a, u b) { return u(std::min(int(a), int(b << 30))); }, x, x[0] << 30));
    e.push_back(same([](u a, u b) { return std::max(a, b); }, x, 0));
    e.push_back(same([](u a, u b) { return a & (b | 8); }, x, ~0u));
    e.push_back(same([](u a, u b) { return a | b; }, x, 0));
    e.push_back(same([](u a, u b) { return a ^ b; }, x, 0));
    e.push_back(each([](u l, const row &v) { return l < 16 ? v[l ^ 1] + 0xffffu : v[l ^ 2] - 0xffff0000u; }, x));
    e.push_back(each([](u l, const row &) { return u(l + 4 < 32); }, x));
    e.push_back(each([](u l, const row &) { return ((1u << l) - 1) ^ (0u - (1u << l)) << 1; }, x));
    return e;
}

void lanes_test(const ptx_module *module, random_source &random, selftest_count &count)
{
    for (int round = 0; round < 3; round++) {
        selftest_machine m({});
        row x(32);
        for (uint32_t &v : x)
            v = static_cast<uint32_t>(random()) % (round == 0 ? 1000 : 90);
        if (round == 2)
            x[5] = 0x12345678;
        struct {
            uint64_t in, out;
        } args = {m.upload(x), 0};
        std::vector<row> want = expected_lanes(x);
        args.out = m.memory.alloc(want.size() * 32 * 4);
        bool ran = m.launch(ptx_find(module, "lanes"), 1, 32, args);
        count.check(ran && m.reports.empty(), "lanes", m.said());
        for (size_t k = 0; k < want.size(); k++)
            count.check(m.download<uint32_t>(args.out + k * 128, 32) == want[k], "lanes, result " + std::to_string(k));
    }
}

/* --- matrices ----------------------------------------------------------------------------------------------------- */

struct matrix_data {
    std::vector<uint16_t> a = std::vector<uint16_t>(256), b = std::vector<uint16_t>(128);
    std::vector<float> c = std::vector<float>(128);
    std::vector<int8_t> a8 = std::vector<int8_t>(512), b8 = std::vector<int8_t>(256);
};

struct matrix_args {
    uint64_t a, b, c, d, a8, b8, d8, d16, moved;
};

template <class F> matrix_data random_matrices(F f, random_source &random)
{
    matrix_data m;
    auto real = [&] { return std::ldexp(static_cast<double>(static_cast<int64_t>(random())), -62); };
    for (auto &x : m.a)
        x = nearest(f, real());
    for (auto &x : m.b)
        x = nearest(f, real());
    for (auto &x : m.c)
        x = static_cast<float>(real());
    for (auto &x : m.a8)
        x = static_cast<int8_t>(random());
    for (auto &x : m.b8)
        x = static_cast<int8_t>(random());
    return m;
}

matrix_args upload(selftest_machine &m, const matrix_data &data)
{
    return {m.upload(data.a),  m.upload(data.b),    m.upload(data.c),    m.memory.alloc(512), m.upload(data.a8),
            m.upload(data.b8), m.memory.alloc(512), m.memory.alloc(256), m.memory.alloc(128)};
}

/* Each of K steps is rounded once to 24 bits: K units of the sum of magnitudes are allowed. */
template <class F>
void matrix_test(const ptx_module *module, const char *name, F f, int K, random_source &random, selftest_count &count)
{
    selftest_machine m({});
    matrix_data data = random_matrices(f, random);
    matrix_args args = upload(m, data);
    bool ran = m.launch(ptx_find(module, name), 1, 32, args);
    count.check(ran && m.reports.empty(), name, m.said());
    std::vector<float> d = m.download<float>(args.d, 128);
    double worst = 0;
    for (int i = 0; i < 16; i++)
        for (int n = 0; n < 8; n++) {
            double sum = data.c[i * 8 + n], size = std::fabs(sum);
            for (int k = 0; k < K; k++) {
                double p = double(value(f, data.a[i * 16 + k])) * value(f, data.b[n * 16 + k]);
                sum += p;
                size += std::fabs(p);
            }
            worst = std::max(worst, std::fabs(d[i * 8 + n] - sum) / (K * 0x1p-24 * size));
        }
    count.check(worst <= 1, name, "differs by " + std::to_string(worst) + " of what is allowed");
}

void words_test(const ptx_module *module, random_source &random, selftest_count &count)
{
    selftest_machine m({});
    matrix_data data = random_matrices(F16(), random);
    matrix_args args = upload(m, data);
    bool ran = m.launch(ptx_find(module, "matrix_words"), 1, 32, args);
    count.check(ran && m.reports.empty(), "matrix_words", m.said());
    std::vector<int32_t> d8 = m.download<int32_t>(args.d8, 128);
    std::vector<uint16_t> d16 = m.download<uint16_t>(args.d16, 128), moved = m.download<uint16_t>(args.moved, 64);
    bool integers = true, halves = true, transposed = true;
    for (int i = 0; i < 16; i++)
        for (int n = 0; n < 8; n++) {
            int sum = 1 + n % 2 + i / 8 * 2;
            double real = 0, size = 0;
            for (int k = 0; k < 32; k++)
                sum += data.a8[i * 32 + k] * data.b8[n * 32 + k];
            for (int k = 0; k < 24; k++) { /* the first eight columns are added once more */
                double p = double(value(F16(), data.a[i * 16 + k % 16])) * value(F16(), data.b[n * 16 + k % 16]);
                real += p;
                size += std::fabs(p);
            }
            integers &= sum == d8[i * 8 + n];
            halves &= std::fabs(value(F16(), d16[i * 8 + n]) - real) <= 2 * 0x1p-11 * size;
        }
    for (int i = 0; i < 8; i++)
        for (int n = 0; n < 8; n++)
            transposed &= moved[n * 8 + i] == data.b[i * 16 + n];
    count.check(integers, "mma of s8");
    count.check(halves, "mma with f16 sums");
    count.check(transposed, "movmatrix");
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

struct memory_args {
    uint64_t in, out, counters;
    uint32_t n;
};

/* The kernel memory_widths, one thread after the other. */
std::vector<uint8_t> expected_widths(const std::vector<uint8_t> &in, uint32_t n)
{
    std::vector<uint8_t> out(4096, 0xcb);
    for (uint32_t t = 0; t < 64; t++)
        out[t] = in[t];
    for (uint32_t t = 0; t < 64; t++) {
        int32_t sum = static_cast<int8_t>(in[t]) + get<int16_t>(&in[2 * t]);
        memcpy(&out[4 * (64 + t)], &sum, 4);
    }
    memcpy(&out[512], &in[0], 512);
    memcpy(&out[1024], &in[0], 1024);
    auto copied = [&](uint32_t t) { /* the 32 bytes of dynamic shared memory of thread t */
                                    std::vector<uint8_t> d(32, 0);
                                    memcpy(&d[0], &in[16 * t], t % 17);
                                    memcpy(&d[16], &in[16 * t], 8);
                                    memcpy(&d[24], &in[16 * t], t % 5);
                                    if (t != 3)
                                        memcpy(&d[28], &in[16 * t], 4);
                                    return d;
    };
    for (uint32_t t = 0; t < 64; t++) {
        memcpy(&out[2048 + 16 * t], copied(t).data(), 8);
        memcpy(&out[2048 + 16 * t + 8], copied(63 - t).data() + 24, 8);
    }
    for (uint32_t t = 0; t < 64; t++) {
        uint32_t i = 0;
        while ((i * 5 + n) % 16 != t % 16)
            i++;
        uint16_t half = static_cast<uint16_t>((63 - t) * 3 + static_cast<uint8_t>(i + t));
        uint32_t word = (t % 4 + 1) * 11 + 5;
        memcpy(&out[2 * (1536 + t)], &half, 2);
        memcpy(&out[4 * (960 + t)], &word, 4);
    }
    return out;
}

void widths_test(const ptx_module *module, random_source &random, selftest_count &count)
{
    for (uint32_t n : {0u, 3u}) {
        selftest_machine m({});
        std::vector<uint8_t> in(4096);
        for (uint8_t &b : in)
            b = static_cast<uint8_t>(random());
        memory_args args = {m.upload(in), m.memory.alloc(4096), 0, n};
        bool ran = m.launch(ptx_find(module, "memory_widths"), 1, 64, args, 2048);
        count.check(ran && m.reports.empty(), "memory_widths", m.said());
        std::vector<uint8_t> want = expected_widths(in, n), got = m.download<uint8_t>(args.out, 4096);
        for (size_t at = 0; at < 4096; at += 512)
            count.check(std::equal(&got[at], &got[at] + 512, &want[at]),
                        "memory_widths, bytes from " + std::to_string(at));
    }
}

void atomics_test(const ptx_module *module, uint64_t seed, selftest_count &count)
{
    ptx_options options;
    options.seed = seed;
    options.preempt = seed != 0;
    selftest_machine m(options);
    std::vector<uint32_t> zero(16, 0);
    zero[6] = ~0u;
    memory_args args = {0, 0, m.upload(zero), 0};
    bool ran = m.launch(ptx_find(module, "memory_atomics"), 5, 64, args);
    count.check(ran && m.reports.empty(), "memory_atomics", m.said());
    float sum = 160;
    std::vector<uint32_t> want = {320, static_cast<uint32_t>(-100), 319, ~0u, 0, 0, ~0x7fu, 0};
    memcpy(&want[7], &sum, 4);
    std::vector<uint32_t> got = m.download<uint32_t>(args.counters, 16);
    count.check(std::equal(want.begin(), want.end(), got.begin()), "memory_atomics, whatever the order");
    count.check(got[9] == 2 && got[10] == 0 && got[11] == 160, "memory_atomics, wrapping and 64 bits",
                std::to_string(got[9]));
    count.check(got[12] == 5 * 2016 && got[13] == 5 * 1032, "memory_atomics, of shared memory and bar.red");
    /* Lanes of a warp go in order: a chain of 32 fits or does not. */
    count.check(got[8] >= 32 && got[8] % 32 == 0, "memory_atomics, cas", std::to_string(got[8]));
}

/* --- control ------------------------------------------------------------------------------------------------------ */

uint32_t expected_control(uint32_t i)
{
    uint32_t x = i * 7 + 1, steps = 0, r = 0;
    while (x != 1) {
        x = x % 2 ? 3 * x + 1 : x / 2;
        steps++;
        if (steps % 11 != 10 && steps > 90 + i % 13)
            break;
    }
    for (uint32_t k = 0; k < i % 9; k++) {
        uint32_t c = (x + k) % 8;
        r = c == 0   ? r + 3
            : c == 1 ? r ^ 0x55
            : c == 2 ? r * 5 + 1
            : c == 3 ? r - k + 9
            : c == 4 ? r + 9
            : c == 5 ? ~r
            : c == 6 ? r << 1
                     : r | 4;
    }
    return steps * 1000 + r;
}

void control_test(const ptx_module *module, uint64_t seed, selftest_count &count)
{
    constexpr uint32_t N = 500;
    ptx_options options;
    options.seed = seed;
    options.preempt = seed > 1;
    selftest_machine m(options);
    memory_args args = {0, m.memory.alloc(N * 4), 0, N};
    bool ran = m.launch(ptx_find(module, "control"), 8, 64, args);
    std::vector<uint32_t> got = m.download<uint32_t>(args.out, N);
    unsigned n_wrong = 0;
    for (uint32_t i = 0; i < N; i++)
        n_wrong += got[i] != expected_control(i);
    count.check(ran && m.reports.empty() && n_wrong == 0, "control, seed " + std::to_string(seed), m.said());
}

} // namespace

void isa_test(const ptx_module *module, selftest_count &count)
{
    random_source random(42);
    for (const isa_case &c : cases)
        run_case(module, c, random, count);
    lanes_test(module, random, count);
    matrix_test(module, "matrix_f16_k16", F16(), 16, random, count);
    matrix_test(module, "matrix_f16_k16_trans", F16(), 16, random, count);
    matrix_test(module, "matrix_f16_k8", F16(), 8, random, count);
    matrix_test(module, "matrix_bf16_k16", BF16(), 16, random, count);
    matrix_test(module, "matrix_bf16_k8", BF16(), 8, random, count);
    words_test(module, random, count);
    widths_test(module, random, count);
    for (uint64_t seed : {0u, 1u, 2u, 3u}) {
        atomics_test(module, seed, count);
        control_test(module, seed, count);
    }
}
