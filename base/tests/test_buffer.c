#include "base/tests/test_base.h"

#include "base/buffer.h"
#include "base/bytes.h"

static void test_grows_and_stays_terminated(void **state)
{
    (void)state;
    struct base_buffer b;
    base_buffer_init(&b, 1 << 20);
    assert_string_equal(base_buffer_cstr(&b), "");
    for (int i = 0; i < 10000; i++)
        base_buffer_printf(&b, "%d,", i);
    assert_int_equal(b.failed, 0);
    assert_int_equal(strlen(base_buffer_cstr(&b)), b.n);
    assert_int_equal(b.n, 10 * 2 + 90 * 3 + 900 * 4 + 9000 * 5);
    base_buffer_truncate(&b, 4);
    assert_string_equal(base_buffer_cstr(&b), "0,1,");
    base_buffer_done(&b);
    base_buffer_string(&b, "again");
    assert_string_equal(base_buffer_cstr(&b), "again");
    base_buffer_done(&b);
}

static void test_ceiling(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t n_max, first, second;
        int failed;
        size_t n;
    } cases[] = {
        {"exactly full in one", 10, 10, 0, 0, 10},
        {"exactly full in two", 10, 4, 6, 0, 10},
        {"one too many", 10, 4, 7, ERR_INPUT, 4},
        {"one too many at once", 10, 11, 0, ERR_INPUT, 0},
        {"nothing allowed", 0, 1, 0, ERR_INPUT, 0},
        {"nothing asked", 0, 0, 0, 0, 0},
        {"beyond the first capacity", 1000, 256, 744, 0, 1000},
        {"beyond the first capacity and the ceiling", 1000, 256, 745, ERR_INPUT, 256},
        {"a size that would wrap", SIZE_MAX, 10, SIZE_MAX - 5, ERR_INPUT, 10},
    };
    static const uint8_t bytes[1024];
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_buffer b;
        base_buffer_init(&b, cases[i].n_max);
        base_buffer_append(&b, bytes, cases[i].first);
        base_buffer_append(&b, bytes, cases[i].second); /* the huge one fails before anything is read */
        if (b.failed != cases[i].failed || b.n != cases[i].n)
            fail_msg("%s: failed %d n %zu, want %d %zu", cases[i].name, b.failed, b.n, cases[i].failed, cases[i].n);
        base_buffer_done(&b);
    }
}

static void test_failure_sticks(void **state)
{
    (void)state;
    struct base_buffer b;
    base_buffer_init(&b, 4);
    base_buffer_string(&b, "abc");
    base_buffer_string(&b, "de");
    base_buffer_byte(&b, 'f'); /* would fit, but a hole before it would be worse than nothing */
    base_buffer_printf(&b, "%c", 'g');
    base_buffer_zeros(&b, 1);
    base_buffer_u16(&b, 1);
    assert_int_equal(b.failed, ERR_INPUT);
    assert_string_equal(base_buffer_cstr(&b), "abc");
    size_t n = 77;
    assert_null(base_buffer_take(&b, &n));
    assert_int_equal(n, 77);
    base_buffer_clear(&b);
    assert_int_equal(b.failed, 0);
    base_buffer_string(&b, "wxyz");
    assert_string_equal(base_buffer_cstr(&b), "wxyz");
    base_buffer_done(&b);
}

static void test_out_of_memory_is_an_answer(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("skipped: the sanitizer's allocator aborts on sizes this large\n");
    skip();
#else
    struct base_buffer b;
    base_buffer_init(&b, SIZE_MAX);
    base_buffer_zeros(&b, SIZE_MAX / 2 - 4096);
    assert_int_equal(b.failed, ERR_NOMEM);
    base_buffer_clear(&b);
    base_buffer_zeros(&b, SIZE_MAX);
    assert_int_equal(b.failed, ERR_NOMEM);
    base_buffer_done(&b);
#endif
}

static void test_take(void **state)
{
    (void)state;
    struct base_buffer b;
    size_t n = 0;
    base_buffer_init(&b, 100);
    assert_null(base_buffer_take(&b, &n));
    base_buffer_string(&b, "mine");
    uint8_t *data = base_buffer_take(&b, &n);
    assert_int_equal(n, 4);
    assert_string_equal((const char *)data, "mine");
    free(data);
    assert_int_equal(b.n, 0);
    base_buffer_string(&b, "next");
    assert_string_equal(base_buffer_cstr(&b), "next");
    base_buffer_done(&b);
}

static void test_align(void **state)
{
    (void)state;
    static const struct {
        size_t n, alignment, want;
    } cases[] = {{0, 8, 0}, {1, 8, 8}, {8, 8, 8}, {9, 8, 16}, {5, 1, 5}, {3, 256, 256}, {257, 256, 512}};
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_buffer b;
        base_buffer_init(&b, 4096);
        base_buffer_zeros(&b, cases[i].n);
        base_buffer_align(&b, cases[i].alignment);
        assert_int_equal(b.n, cases[i].want);
        base_buffer_done(&b);
    }
}

static void test_little_endian_both_ways(void **state)
{
    (void)state;
    struct base_buffer b;
    base_buffer_init(&b, 100);
    base_buffer_byte(&b, 0xfe);
    base_buffer_u16(&b, 0x0102);
    base_buffer_u32(&b, 0x03040506);
    base_buffer_u64(&b, 0x0708090a0b0c0d0e);
    base_buffer_u32(&b, 0x3f800000); /* 1.0f */
    static const uint8_t want[] = {0xfe, 2, 1, 6, 5, 4, 3, 14, 13, 12, 11, 10, 9, 8, 7, 0, 0, 0x80, 0x3f};
    assert_int_equal(b.n, sizeof(want));
    assert_memory_equal(b.data, want, sizeof(want));

    struct base_bytes r = base_bytes_of(b.data, b.n);
    assert_int_equal(base_bytes_u8(&r), 0xfe);
    assert_int_equal(base_bytes_u16(&r), 0x0102);
    assert_int_equal(base_bytes_u32(&r), 0x03040506);
    assert_true(base_bytes_u64(&r) == 0x0708090a0b0c0d0e);
    assert_true(base_bytes_f32(&r) == 1.0f);
    assert_false(r.failed);
    assert_int_equal(base_bytes_left(&r), 0);
    base_buffer_done(&b);
}

static void test_reading_past_the_end_sticks(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {1, 2, 3};
    struct base_bytes r = base_bytes_of(bytes, sizeof(bytes));
    assert_int_equal(base_bytes_u16(&r), 0x0201);
    assert_int_equal(base_bytes_u32(&r), 0);
    assert_true(r.failed);
    assert_int_equal(base_bytes_u8(&r), 0); /* one byte is left, but the record is broken already */
    assert_null(base_bytes_take(&r, 1));

    r = base_bytes_of(bytes, sizeof(bytes));
    assert_ptr_equal(base_bytes_take(&r, 3), bytes);
    assert_non_null(base_bytes_take(&r, 0));
    assert_false(r.failed);
    assert_null(base_bytes_take(&r, SIZE_MAX));
    assert_true(r.failed);

    r = base_bytes_of(NULL, 0);
    assert_int_equal(base_bytes_u64(&r), 0);
    assert_true(r.failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grows_and_stays_terminated),
        cmocka_unit_test(test_ceiling),
        cmocka_unit_test(test_failure_sticks),
        cmocka_unit_test(test_out_of_memory_is_an_answer),
        cmocka_unit_test(test_take),
        cmocka_unit_test(test_align),
        cmocka_unit_test(test_little_endian_both_ways),
        cmocka_unit_test(test_reading_past_the_end_sticks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
