/* Fuzz entry: choices as a snapshot carries them. What is read keeps its promises, and is written as it was read. */
#include <string.h>

#include "gpu/cuda/cuda_choices.h"
#include "tests/fuzz.h"

static void check_graph(const struct cuda_choices *c, const struct cuda_topology *t)
{
    FUZZ_CHECK(t->n > 0 && t->n <= CUDA_CHOICES_LAUNCHES_MAX);
    for (uint32_t i = 0; i < t->n; i++) {
        const struct cuda_launch *launch = &t->nodes[i];
        const uint16_t *at;
        FUZZ_CHECK(launch->kernel < CUDA_KERNELS && launch->n_after <= CUDA_AFTER_MAX);
        for (uint32_t j = 0; j < launch->n_after; j++)
            FUZZ_CHECK(launch->after[j] < i);
        const uint32_t n = cuda_kernel_pointers(launch->kernel, &at);
        for (uint32_t j = 0; j < n; j++)
            FUZZ_CHECK(cuda_launch_pointer(launch, at[j]) <= c->layout[CUDA_CHOICES_ARENA]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct cuda_choices c;
    struct base_error err = {0};
    if (cuda_choices_decode(&c, data, n, &err) < 0) {
        FUZZ_CHECK(err.code == ERR_CORRUPT);
        return 0;
    }
    for (uint32_t i = 0; i < c.n_graphs; i++)
        check_graph(&c, &c.graphs[i]);
    struct base_buffer out;
    base_buffer_init(&out, n);
    cuda_choices_encode(&c, &out);
    FUZZ_CHECK(!out.failed && out.n == n && memcmp(out.data, data, n) == 0);
    base_buffer_done(&out);
    cuda_choices_done(&c);
    return 0;
}
