/* takeover - what the last owner of a partition left: its progress, and, if it died, perhaps an open transaction.
 *
 * An open transaction holds up two things until the broker ends it for want of a word, seconds to half a minute later: the
 * group's offset of the partition cannot be read, and readers of what it wrote to see nothing that is newer. The progress map
 * names its writer and says whether it gave the partition up in order. One that did not is fenced: init_transactions with its
 * transactional id ends its transaction at once. Should it live after all (it was stopped, or cut off), it loses one
 * transaction, whose results it sends again if they are still its own. */
#ifndef ROUSE_WORKER_TAKEOVER_H
#define ROUSE_WORKER_TAKEOVER_H

#include <librdkafka/rdkafka.h>

#include "worker/worker_state.h"

/* The poll thread calls it, from the callback that assigns. Fills in the offsets of list and their metadata, asking until they are
 * there: without them, what was answered would be answered again. ERR_STOPPED: there is no need any more. */
int takeover_read(struct worker *w, rd_kafka_t *consumer, rd_kafka_topic_partition_list_t *list);

#endif
