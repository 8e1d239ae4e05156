/* librdkafka starts its threads with C11's thrd_create, which ThreadSanitizer of GCC 12 does not know: such a thread has no
 * state in it, and dies in its first malloc. In a thread-sanitized program these take libc's place for the library. */
#ifdef __SANITIZE_THREAD__
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <threads.h>

struct start {
    thrd_start_t run;
    void *argument;
};

static void *trampoline(void *context)
{
    struct start start = *(struct start *)context;
    free(context);
    return (void *)(intptr_t)start.run(start.argument);
}

int thrd_create(thrd_t *out_thread, thrd_start_t run, void *argument)
{
    struct start *start = malloc(sizeof *start);
    if (!start)
        return thrd_nomem;
    *start = (struct start){run, argument};
    if (pthread_create(out_thread, NULL, trampoline, start) == 0)
        return thrd_success;
    free(start);
    return thrd_error;
}

int thrd_join(thrd_t thread, int *out_result)
{
    void *result = NULL;
    if (pthread_join(thread, &result) != 0)
        return thrd_error;
    if (out_result)
        *out_result = (int)(intptr_t)result;
    return thrd_success;
}

int thrd_detach(thrd_t thread)
{
    return pthread_detach(thread) == 0 ? thrd_success : thrd_error;
}
#else
typedef int not_thread_sanitized; /* a translation unit has something in it */
#endif
