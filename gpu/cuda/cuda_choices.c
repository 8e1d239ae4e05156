#include "gpu/cuda/cuda_choices.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static const char magic[8] = {'R', 'O', 'U', 'S', 'E', 'C', 'H', '1'};

enum {
    VERSION = 1,
    FLAG_CHOSEN = 1,
    FLAG_USABLE = 2,
    BLOCK_MAX = 1024,                /* threads */
    SHARED_MAX = 256 << 10,          /* more than any device has */
    LAUNCH_BYTES_MIN = 1 + 5 * 4 + 1 /* without what it waits for and its arguments */
};

/* ---- bytes ---- */

static int corrupt(struct base_error *err, const char *what)
{
    return base_fail(err, ERR_CORRUPT, "choices: %s", what);
}

/* out: [size], NUL-terminated; the text is shorter and has no NUL inside. */
static bool read_text(struct base_bytes *in, char *out, size_t size)
{
    const size_t n = base_bytes_u8(in);
    const uint8_t *text = base_bytes_take(in, n);
    if (!text || n >= size || memchr(text, 0, n))
        return false;
    memcpy(out, text, n);
    out[n] = '\0';
    return true;
}

static void write_text(struct base_buffer *out, const char *text)
{
    const size_t n = strlen(text);
    assert(n < 256);
    base_buffer_byte(out, (uint8_t)n);
    base_buffer_append(out, text, n);
}

static int decode_gemms(struct base_bytes *in, struct cuda_choices *c, struct base_error *err)
{
    if (base_bytes_u32(in) != CUDA_PRODUCTS)
        return corrupt(err, "not the products of this program");
    for (enum cuda_product i = 0; i < CUDA_PRODUCTS; i++) {
        c->n_classes[i] = base_bytes_u32(in);
        if (c->n_classes[i] > CUDA_ROW_CLASSES)
            return corrupt(err, "more classes of rows than there are");
        for (uint32_t j = 0; j < c->n_classes[i]; j++) {
            struct cuda_gemm_choice *choice = &c->gemms[i][j];
            const uint8_t flags = base_bytes_u8(in);
            if (flags != 0 && flags != FLAG_CHOSEN && flags != (FLAG_CHOSEN | FLAG_USABLE))
                return corrupt(err, "an algorithm that is neither chosen nor not");
            choice->chosen = (flags & FLAG_CHOSEN) != 0;
            choice->usable = (flags & FLAG_USABLE) != 0;
            for (uint32_t k = 0; k < 8 && choice->usable; k++)
                choice->algo.data[k] = base_bytes_u64(in);
        }
    }
    return in->failed ? corrupt(err, "cut among the algorithms") : 0;
}

static void encode_gemms(const struct cuda_choices *c, struct base_buffer *out)
{
    base_buffer_u32(out, CUDA_PRODUCTS);
    for (enum cuda_product i = 0; i < CUDA_PRODUCTS; i++) {
        base_buffer_u32(out, c->n_classes[i]);
        for (uint32_t j = 0; j < c->n_classes[i]; j++) {
            const struct cuda_gemm_choice *choice = &c->gemms[i][j];
            base_buffer_byte(out, (uint8_t)((choice->chosen ? FLAG_CHOSEN : 0) | (choice->usable ? FLAG_USABLE : 0)));
            for (uint32_t k = 0; k < 8 && choice->usable; k++)
                base_buffer_u64(out, choice->algo.data[k]);
        }
    }
}

static int decode_launch(struct base_bytes *in, const struct cuda_choices *c, uint32_t index,
                         struct cuda_launch *launch, struct base_error *err)
{
    const uint8_t kernel = base_bytes_u8(in);
    if (kernel >= CUDA_KERNELS)
        return corrupt(err, "a launch of no kernel");
    launch->kernel = (enum cuda_kernel)kernel;
    for (uint32_t i = 0; i < 3; i++)
        launch->grid[i] = base_bytes_u32(in);
    launch->block = base_bytes_u32(in);
    launch->shared_bytes = base_bytes_u32(in);
    launch->n_after = base_bytes_u8(in);
    if (launch->n_after > CUDA_AFTER_MAX)
        return corrupt(err, "a launch that waits for too many");
    for (uint32_t i = 0; i < launch->n_after; i++)
        launch->after[i] = base_bytes_u32(in);
    const uint8_t *args = base_bytes_take(in, cuda_kernel_args_bytes(launch->kernel));
    if (!args)
        return corrupt(err, "cut inside a launch");
    memcpy(launch->args, args, cuda_kernel_args_bytes(launch->kernel));

    if (launch->grid[0] == 0 || launch->grid[0] > INT32_MAX || launch->grid[1] == 0 || launch->grid[1] > UINT16_MAX ||
        launch->grid[2] == 0 || launch->grid[2] > UINT16_MAX || launch->block == 0 || launch->block > BLOCK_MAX ||
        launch->shared_bytes > SHARED_MAX)
        return corrupt(err, "a launch of an impossible shape");
    for (uint32_t i = 0; i < launch->n_after; i++)
        if (launch->after[i] >= index)
            return corrupt(err, "a launch that waits for one behind it");
    const uint16_t *at;
    const uint32_t n = cuda_kernel_pointers(launch->kernel, &at);
    for (uint32_t i = 0; i < n; i++)
        if (cuda_launch_pointer(launch, at[i]) > c->layout[CUDA_CHOICES_ARENA])
            return corrupt(err, "an address outside the arena");
    return 0;
}

static int decode_graph(struct base_bytes *in, const struct cuda_choices *c, struct cuda_topology *t,
                        struct base_error *err)
{
    const uint32_t n = base_bytes_u32(in);
    if (n == 0 || n > CUDA_CHOICES_LAUNCHES_MAX || n > base_bytes_left(in) / LAUNCH_BYTES_MIN)
        return corrupt(err, "more launches than bytes, or none");
    int rc = cuda_topology_init(t, n, err);
    for (uint32_t i = 0; i < n && rc == 0; i++, t->n++)
        rc = decode_launch(in, c, i, &t->nodes[i], err);
    return rc;
}

static int decode_graphs(struct base_bytes *in, struct cuda_choices *c, struct base_error *err)
{
    const uint32_t n = base_bytes_u32(in);
    if (n > CUDA_CHOICES_GRAPHS_MAX)
        return corrupt(err, "more graphs than there are");
    int rc = 0;
    for (uint32_t i = 0; i < n && rc == 0; i++)
        rc = decode_graph(in, c, &c->graphs[c->n_graphs++], err);
    return rc;
}

static void encode_graph(const struct cuda_topology *t, struct base_buffer *out)
{
    base_buffer_u32(out, t->n);
    for (uint32_t i = 0; i < t->n; i++) {
        const struct cuda_launch *launch = &t->nodes[i];
        base_buffer_byte(out, (uint8_t)launch->kernel);
        for (uint32_t j = 0; j < 3; j++)
            base_buffer_u32(out, launch->grid[j]);
        base_buffer_u32(out, launch->block);
        base_buffer_u32(out, launch->shared_bytes);
        base_buffer_byte(out, (uint8_t)launch->n_after);
        for (uint32_t j = 0; j < launch->n_after; j++)
            base_buffer_u32(out, launch->after[j]);
        base_buffer_append(out, launch->args, cuda_kernel_args_bytes(launch->kernel));
    }
}

static int decode_front(struct base_bytes *in, struct cuda_choices *c, struct base_error *err)
{
    const uint8_t *first = base_bytes_take(in, sizeof magic);
    if (!first || memcmp(first, magic, sizeof magic) != 0)
        return corrupt(err, "no choices of a CUDA device");
    if (base_bytes_u32(in) != VERSION)
        return corrupt(err, "of another version");
    if (!read_text(in, c->arch, sizeof c->arch) || !read_text(in, c->driver, sizeof c->driver))
        return corrupt(err, "no name of a device");
    c->kernels_id = base_bytes_u64(in);
    c->lt_version = base_bytes_u64(in);
    const uint8_t fastest = base_bytes_u8(in);
    if (fastest > 1)
        return corrupt(err, "neither fastest nor not");
    c->fastest = fastest;
    for (uint32_t i = 0; i < CUDA_CHOICES_LAYOUT; i++)
        c->layout[i] = base_bytes_u64(in);
    return in->failed ? corrupt(err, "cut in the front") : 0;
}

static int decode_names(struct base_bytes *in, struct cuda_choices *c, struct base_error *err)
{
    if (base_bytes_u32(in) != CUDA_KERNELS)
        return corrupt(err, "not the kernels of this program");
    for (uint32_t i = 0; i < CUDA_KERNELS; i++)
        if (!read_text(in, c->kernels[i], sizeof c->kernels[i]))
            return corrupt(err, "no name of a kernel");
    return 0;
}

static int decode_image(struct base_bytes *in, struct cuda_choices *c, struct base_error *err)
{
    const uint64_t n = base_bytes_u64(in);
    if (in->failed || n != base_bytes_left(in))
        return corrupt(err, "the machine code does not end where the bytes do");
    c->image = n > 0 ? base_bytes_take(in, n) : NULL;
    c->image_bytes = n;
    return 0;
}

int cuda_choices_decode(struct cuda_choices *c, const void *bytes, size_t n, struct base_error *err)
{
    struct base_bytes in = base_bytes_of(bytes, n);
    memset(c, 0, sizeof *c);
    int rc = decode_front(&in, c, err);
    if (rc == 0)
        rc = decode_gemms(&in, c, err);
    if (rc == 0)
        rc = decode_names(&in, c, err);
    if (rc == 0)
        rc = decode_graphs(&in, c, err);
    if (rc == 0)
        rc = decode_image(&in, c, err);
    if (rc < 0)
        cuda_choices_done(c);
    return rc;
}

void cuda_choices_encode(const struct cuda_choices *c, struct base_buffer *out)
{
    base_buffer_append(out, magic, sizeof magic);
    base_buffer_u32(out, VERSION);
    write_text(out, c->arch);
    write_text(out, c->driver);
    base_buffer_u64(out, c->kernels_id);
    base_buffer_u64(out, c->lt_version);
    base_buffer_byte(out, c->fastest);
    for (uint32_t i = 0; i < CUDA_CHOICES_LAYOUT; i++)
        base_buffer_u64(out, c->layout[i]);
    encode_gemms(c, out);
    base_buffer_u32(out, CUDA_KERNELS);
    for (uint32_t i = 0; i < CUDA_KERNELS; i++)
        write_text(out, c->kernels[i]);
    base_buffer_u32(out, c->n_graphs);
    for (uint32_t i = 0; i < c->n_graphs; i++)
        encode_graph(&c->graphs[i], out);
    base_buffer_u64(out, c->image_bytes);
    base_buffer_append(out, c->image, c->image_bytes);
}

void cuda_choices_done(struct cuda_choices *c)
{
    for (uint32_t i = 0; i < c->n_graphs; i++)
        cuda_topology_done(&c->graphs[i]);
    c->n_graphs = 0;
}
