#include "model/tests/corpus_replay.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { REPLAY_BYTES_MAX = 1 << 20, REPLAY_PREFIX_BYTES_MAX = 2048 };

/* In a block of exactly n bytes, so that the address sanitizer sees a read one past it. */
static void replay_one(const uint8_t *data, size_t n)
{
    uint8_t *exact = malloc(n ? n : 1);
    if (!exact)
        abort();
    memcpy(exact, data, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
}

static void replay_file(const char *path)
{
    struct base_buffer bytes;
    base_buffer_init(&bytes, REPLAY_BYTES_MAX);
    struct base_error err = {0};
    if (base_file_read(path, REPLAY_BYTES_MAX, &bytes, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    const uint8_t *data = (const uint8_t *)base_buffer_cstr(&bytes);
    for (size_t n = 0; n < bytes.n && bytes.n <= REPLAY_PREFIX_BYTES_MAX; n++)
        replay_one(data, n);
    replay_one(data, bytes.n);
    base_buffer_done(&bytes);
}

size_t corpus_replay(const char *name)
{
    const char *root = getenv("ROUSE_SOURCE_DIR");
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/model/tests/corpus/%s", root ? root : ".", name);
    DIR *dir = opendir(path);
    if (!dir) {
        perror(path);
        return 0;
    }
    size_t n = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        char file[PATH_MAX + 256 + 2];
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        replay_file(file);
        n++;
    }
    closedir(dir);
    return n;
}
