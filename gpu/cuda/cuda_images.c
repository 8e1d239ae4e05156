#include "gpu/cuda/cuda_images.h"

/* Files of the build (cmake/cuda.cmake), taken in by the assembler. */
#define EMBED(name, file)                                                                                              \
    extern const uint8_t name[], name##_end[];                                                                         \
    __asm__(".pushsection .rodata\n"                                                                                   \
            ".balign 64\n" #name ":\n"                                                                                 \
            ".incbin \"" CUDA_IMAGE_DIR "/" file "\"\n" #name "_end:\n"                                                \
            ".byte 0\n"                                                                                                \
            ".popsection\n")

EMBED(image_sm_80, "sm_80.cubin");
EMBED(image_sm_86, "sm_86.cubin");
EMBED(image_sm_89, "sm_89.cubin");
EMBED(image_sm_90, "sm_90.cubin");
EMBED(image_sm_100, "sm_100.cubin");
EMBED(image_sm_120, "sm_120.cubin");
EMBED(image_ptx, "kernels.ptx");

bool cuda_image_cubin(size_t i, struct cuda_image *out_image)
{
    static const struct {
        uint32_t major, minor;
        const uint8_t *begin, *end;
    } cubins[] = {
        {8, 0, image_sm_80, image_sm_80_end},    {8, 6, image_sm_86, image_sm_86_end},
        {8, 9, image_sm_89, image_sm_89_end},    {9, 0, image_sm_90, image_sm_90_end},
        {10, 0, image_sm_100, image_sm_100_end}, {12, 0, image_sm_120, image_sm_120_end},
    };
    if (i >= sizeof cubins / sizeof *cubins)
        return false;
    *out_image = (struct cuda_image){cubins[i].major, cubins[i].minor, cubins[i].begin,
                                     (uintptr_t)cubins[i].end - (uintptr_t)cubins[i].begin};
    return true;
}

struct cuda_image cuda_image_ptx(void)
{
    return (struct cuda_image){8, 0, image_ptx, (uintptr_t)image_ptx_end - (uintptr_t)image_ptx};
}
