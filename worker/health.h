/* health - what a worker says of itself over HTTP.
 *
 *   /startupz  200 once the model is restored and proven
 *   /livez     200 while the poll loop comes round and no forward step hangs: otherwise a restart may help
 *   /readyz    200 while prompts are taken and answered; else the reason. Brokers that are away are one; livez stays 200
 *   /healthz   all of it, as JSON; models: those that are loaded or were asked for, with bytes, state and last use
 *   /metrics   Prometheus text
 *
 * and what it can be asked for (POST):
 *
 *   /sleep     take nothing more, finish what was taken, give the device's memory back; it stays in the group
 *   /wake      memory again, the same weights, proven; then go on
 *              200: it is so already; 202: it will be; 409: not now, or not here, and why */
#ifndef ROUSE_WORKER_HEALTH_H
#define ROUSE_WORKER_HEALTH_H

#include "base/buffer.h"

#define WORKER_POLL_SILENCE_S 30  /* the poll loop has not come round: not alive */
#define WORKER_STEP_S         120 /* a forward step takes longer: not alive */

/* An http_handler (worker/http_server.h); context is the struct worker. */
unsigned worker_health_answer(void *context, const char *path, struct base_buffer *body, const char **out_content_type);
unsigned worker_rest_ask(void *context, const char *path, struct base_buffer *body, const char **out_content_type);

#endif
