/* test_worker - what the worker's tests share: cmocka's includes, and small helpers. */
#ifndef ROUSE_WORKER_TESTS_TEST_WORKER_H
#define ROUSE_WORKER_TESTS_TEST_WORKER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"

#define N_OF(table) (sizeof(table) / sizeof(table)[0])

/* A call that must succeed; its error text is printed when it does not. */
#define assert_ok(call, err)                                                                                           \
    do {                                                                                                               \
        int rc_ = (call);                                                                                              \
        if (rc_ < 0)                                                                                                   \
            fail_msg("%s: %s: %s", #call, base_error_name(rc_), (err).text);                                           \
    } while (0)

#endif
