/* corpus_main - a fuzz entry as a normal test: what a fuzzer once found stays found.
 *
 *   fuzz_NAME FOLDER...
 *
 * Replays every file of the folders, in order of their names; a short file also cut to each of its prefixes, for cuts
 * are what parsers get wrong. Names each file before it runs, so that the last one named is the one that failed. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "tests/fuzz.h"

enum { FILE_BYTES_MAX = 1 << 20, PREFIXES_BYTES_MAX = 8192 };

static unsigned n_files, n_inputs;

/* In a block of exactly n bytes, so that the address sanitizer sees a read one past it. */
static void replay_bytes(const uint8_t *data, size_t n)
{
    uint8_t *exact = malloc(n ? n : 1);
    if (!exact)
        abort();
    if (n)
        memcpy(exact, data, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    n_inputs++;
}

static int replay_file(const char *path)
{
    struct base_buffer file;
    struct base_error err = {0};
    base_buffer_init(&file, FILE_BYTES_MAX);
    int rc = base_file_read(path, FILE_BYTES_MAX, &file, &err);
    if (rc < 0) {
        fprintf(stderr, "%s\n", err.text);
    } else {
        puts(path);
        for (size_t n = 0; n < file.n && file.n <= PREFIXES_BYTES_MAX; n++)
            replay_bytes(file.data, n);
        replay_bytes(file.data, file.n);
        n_files++;
    }
    base_buffer_done(&file);
    return rc;
}

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int replay_folder(const char *folder)
{
    struct dirent **entries;
    int rc = 0, n = scandir(folder, &entries, is_visible, alphasort);
    if (n <= 0) {
        fprintf(stderr, "%s: no corpus\n", folder);
        return ERR_NOTFOUND;
    }
    for (int i = 0; i < n; i++) {
        char path[PATH_MAX];
        struct base_error err = {0};
        if (rc == 0 && (rc = base_file_join(path, sizeof(path), folder, entries[i]->d_name, &err)) < 0)
            fprintf(stderr, "%s\n", err.text);
        if (rc == 0)
            rc = replay_file(path);
        free(entries[i]);
    }
    free(entries);
    return rc;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* an abort would lose the name of its file */
    int rc = argc > 1 ? 0 : ERR_USAGE;
    for (int i = 1; i < argc && rc == 0; i++)
        rc = replay_folder(argv[i]);
    printf("%u files, %u inputs with their prefixes\n", n_files, n_inputs);
    return rc < 0;
}
