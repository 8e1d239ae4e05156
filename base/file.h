/* file - the few file operations that have to be right: whole reads with a limit, publishing by rename. */
#ifndef ROUSE_BASE_FILE_H
#define ROUSE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

/* Appends the file's bytes to out. ERR_NOTFOUND; ERR_INPUT when longer than n_max; ERR_IO. */
int base_file_read(const char *path, size_t n_max, struct base_buffer *out, struct base_error *err);

/* All of n bytes at offset, through EINTR and short reads; ERR_INPUT when the file ends before. path is for the message. */
int base_file_pread(int fd, void *to, size_t n, uint64_t offset, const char *path, struct base_error *err);
int base_file_pwrite(int fd, const void *from, size_t n, uint64_t offset, const char *path, struct base_error *err);

/* Publishes bytes under path: temporary file beside it, write, fsync, rename, fsync of the directory. A reader sees the
 * old file or the new one, whole. The temporary is removed on failure. */
int base_file_publish(const char *path, const void *bytes, size_t n, struct base_error *err);
int base_file_fsync_parent(const char *path, struct base_error *err);

int base_file_make_dirs(const char *path, struct base_error *err); /* mkdir -p, mode 0755 */
bool base_file_is_dir(const char *path);
bool base_file_exists(const char *path);

/* "dir/name" into out (size bytes); ERR_INPUT when it does not fit. */
int base_file_join(char *out, size_t size, const char *dir, const char *name, struct base_error *err);
const char *base_file_name(const char *path, size_t *out_n); /* last part, without trailing slashes */

#endif
