/* What cmocka wants in front of it. */
#ifndef ROUSE_BENCH_TESTS_TEST_BENCH_H
#define ROUSE_BENCH_TESTS_TEST_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
