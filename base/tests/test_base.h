/* test_base - what the tests of base/ share: cmocka in the order it wants, and a scratch directory. */
#ifndef ROUSE_BASE_TESTS_TEST_BASE_H
#define ROUSE_BASE_TESTS_TEST_BASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

static inline const char *test_scratch_new(char path[128])
{
    const char *build = getenv("ROUSE_BINARY_DIR");
    int n = snprintf(path, 128, "%s/tests/scratch-XXXXXX", build ? build : "");
    if (!build || n >= 128 || !mkdtemp(path)) {
        strcpy(path, "/tmp/rouse-test-XXXXXX");
        if (!mkdtemp(path))
            fail_msg("mkdtemp %s: %s", path, strerror(errno));
    }
    return path;
}

/* Entries of a directory, without "." and "..". */
static inline int test_count_entries(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

static inline void test_scratch_free(const char *path)
{
    char command[256];
    snprintf(command, sizeof(command), "rm -rf '%s'", path);
    assert_int_equal(system(command), 0);
}

#endif
