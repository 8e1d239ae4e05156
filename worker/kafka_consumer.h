/* kafka_consumer - the poll thread: the group's member. It polls all the time and never waits for anything else longer than
 * 100 ms, but for the revoke callback's bounded wish that what is finished be published first.
 *
 * Records are taken into the ledger, decoded, and wait in line until the model is there; then they are tokenised, a slice
 * between two polls, and handed to the device thread. Too much in flight: the partitions are paused, outside of callbacks
 * (a pause inside one can stay for ever), and resumed at three quarters. */
#ifndef ROUSE_WORKER_KAFKA_CONSUMER_H
#define ROUSE_WORKER_KAFKA_CONSUMER_H

#define WORKER_REVOKE_WAIT_MS     2000 /* what a rebalance waits for the commit thread */
#define WORKER_CLOSE_WAIT_MS      5000 /* for leaving the group */
#define WORKER_DEATHS_ALONE       2    /* a record that this many workers died with is worked on alone */
#define WORKER_INFLIGHT_BYTES_MAX (256u << 20)

#endif
