/* The bounded queue between two threads. */
#include "worker/tests/test_worker.h"

#include <pthread.h>

#include "base/clock.h"
#include "worker/queue.h"

static struct worker_job *job_of(uintptr_t n)
{
    return (struct worker_job *)n;
}

static void test_order_and_bound(void **state)
{
    (void)state;
    struct worker_queue q;
    struct base_error err = {0};
    assert_ok(worker_queue_init(&q, 3, &err), err);
    for (uintptr_t round = 0; round < 5; round++) { /* the ring wraps */
        assert_int_equal(worker_queue_push(&q, job_of(1)), 0);
        assert_int_equal(worker_queue_push(&q, job_of(2)), 0);
        assert_ptr_equal(worker_queue_pop(&q, 0), job_of(1));
        assert_int_equal(worker_queue_push(&q, job_of(3)), 0);
        assert_int_equal(worker_queue_push(&q, job_of(4)), 0);
        assert_int_equal(worker_queue_push(&q, job_of(5)), ERR_AGAIN);
        assert_int_equal(worker_queue_count(&q), 3);
        for (uintptr_t i = 2; i <= 4; i++)
            assert_ptr_equal(worker_queue_pop(&q, 0), job_of(i));
        assert_null(worker_queue_pop(&q, 0));
    }
    worker_queue_done(&q);
}

static void test_waiting_has_an_end(void **state)
{
    (void)state;
    struct worker_queue q;
    assert_int_equal(worker_queue_init(&q, 1, NULL), 0);
    uint64_t began = base_clock_mono_ns();
    assert_null(worker_queue_pop(&q, 30));
    assert_true(base_clock_mono_ns() - began >= 30 * 1000000ull);
    worker_queue_wake(&q); /* news of before the wait count */
    began = base_clock_mono_ns();
    assert_null(worker_queue_pop(&q, 10000));
    assert_true(base_clock_mono_ns() - began < 5000 * 1000000ull);
    worker_queue_done(&q);
}

static void test_stop_hands_out_what_is_left(void **state)
{
    (void)state;
    struct worker_queue q;
    assert_int_equal(worker_queue_init(&q, 2, NULL), 0);
    assert_int_equal(worker_queue_push(&q, job_of(7)), 0);
    worker_queue_stop(&q);
    assert_int_equal(worker_queue_push(&q, job_of(8)), ERR_STOPPED);
    assert_ptr_equal(worker_queue_pop(&q, 10000), job_of(7));
    assert_null(worker_queue_pop(&q, 10000));
    worker_queue_done(&q);
}

enum { N_JOBS = 20000 };

static void *push_all(void *context)
{
    struct worker_queue *q = context;
    for (uintptr_t i = 1; i <= N_JOBS; i++)
        while (worker_queue_push(q, job_of(i)) == ERR_AGAIN)
            base_clock_sleep_ms(0);
    return NULL;
}

static void test_two_threads(void **state)
{
    (void)state;
    struct worker_queue q;
    pthread_t thread;
    assert_int_equal(worker_queue_init(&q, 64, NULL), 0);
    assert_int_equal(pthread_create(&thread, NULL, push_all, &q), 0);
    for (uintptr_t i = 1; i <= N_JOBS; i++)
        assert_ptr_equal(worker_queue_pop(&q, 10000), job_of(i));
    pthread_join(thread, NULL);
    worker_queue_done(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_bound),
        cmocka_unit_test(test_waiting_has_an_end),
        cmocka_unit_test(test_stop_hands_out_what_is_left),
        cmocka_unit_test(test_two_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
