/* What the process may use, and ranges brought in at once. */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "base/memory.h"
#include "base/tests/test_base.h"

static void test_sizes(void **state)
{
    (void)state;
    uint64_t total = base_memory_total(), available = base_memory_available();
    assert_true(total > (64u << 20));
    assert_true(available > 0 && available <= total);
}

static size_t resident(void *at, size_t n)
{
    unsigned char pages[64];
    size_t count = 0;
    assert_int_equal(mincore(at, n, pages), 0);
    for (size_t i = 0; i < n / 4096; i++)
        count += pages[i] & 1;
    return count;
}

static void test_populate(void **state)
{
    (void)state;
    enum { N = 64 * 4096 };
    uint8_t *memory = mmap(NULL, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    assert_int_equal(resident(memory, N), 0);
    if (base_memory_populate_write(memory, N) < 0) {
        print_message("skipped: this kernel cannot populate\n");
        munmap(memory, N);
        skip();
    }
    assert_int_equal(resident(memory, N), 64);
    memory[N - 1] = 7;
    assert_int_equal(base_memory_populate_read(memory, N), 0);
    assert_int_equal(memory[N - 1], 7); /* nothing of it changes */
    munmap(memory, N);
    assert_int_equal(base_memory_populate_read(memory, N), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes), cmocka_unit_test(test_populate)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
