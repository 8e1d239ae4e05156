/* The main program of a fuzz entry without libFuzzer: gives it every file of the folders and files named as arguments. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "schemas/tests/fuzz.h"

static unsigned n_replayed;

static int replay_file(const char *path)
{
    struct base_buffer file;
    struct base_error err = {0};
    base_buffer_init(&file, 64u << 20);
    if (base_file_read(path, file.n_max, &file, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    uint8_t *exact = malloc(file.n > 0 ? file.n : 1); /* so that a sanitizer sees a read behind it */
    if (!exact)
        return 1;
    if (file.n > 0)
        memcpy(exact, file.data, file.n);
    LLVMFuzzerTestOneInput(exact, file.n);
    free(exact);
    base_buffer_done(&file);
    n_replayed++;
    return 0;
}

static int replay_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return replay_file(folder);
    int failed = 0;
    for (struct dirent *entry; !failed && (entry = readdir(dir));) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (!base_file_is_dir(path))
            failed = replay_file(path);
    }
    closedir(dir);
    return failed;
}

int main(int argc, char **argv)
{
    int failed = 0;
    for (int i = 1; i < argc && !failed; i++)
        failed = replay_folder(argv[i]);
    printf("%u inputs\n", n_replayed);
    return failed || n_replayed == 0;
}
