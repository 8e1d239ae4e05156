/* failpoint - places where a chaos build hurts itself on purpose, and rules that it can break on purpose.
 *
 * Only with the CMake option ROUSE_CHAOS; else FAILPOINT is nothing and MUTANT is false.
 *
 *   ROUSE_FAILPOINT="commit.before_end:3:kill,poll.before_lose:1:sleep=500"   at the third pass; "*": at every pass
 *   ROUSE_MUTANT="epoch_unchecked"                                            some of BASE_MUTANTS, commas between
 *
 * What can happen: kill (SIGKILL), stop (SIGSTOP: somebody else continues it), abort, sleep=MS. A name that is not in the
 * lists, or an action that is none of these, ends the process with a message at the first point it passes. Any thread. */
#ifndef ROUSE_BASE_FAILPOINT_H
#define ROUSE_BASE_FAILPOINT_H

#include <stdbool.h>

/* X(identifier, "name"): every point there is; tests/chaos reads this list. */
#define BASE_FAILPOINTS(X)                                                                                             \
    X(COMMIT_BEFORE_COLLECT, "commit.before_collect")                                                                  \
    X(COMMIT_AFTER_COLLECT, "commit.after_collect")                                                                    \
    X(COMMIT_AFTER_BEGIN, "commit.after_begin")                                                                        \
    X(COMMIT_BETWEEN_SENDS, "commit.between_sends")                                                                    \
    X(COMMIT_AFTER_SENDS, "commit.after_sends")                                                                        \
    X(COMMIT_BEFORE_OFFSETS, "commit.before_offsets")                                                                  \
    X(COMMIT_AFTER_OFFSETS, "commit.after_offsets")                                                                    \
    X(COMMIT_BEFORE_END, "commit.before_end")                                                                          \
    X(COMMIT_AFTER_END, "commit.after_end")                                                                            \
    X(COMMIT_BEFORE_ABORT, "commit.before_abort")                                                                      \
    X(COMMIT_BEFORE_SETTLE, "commit.before_settle")                                                                    \
    X(COMMIT_AFTER_SETTLE, "commit.after_settle")                                                                      \
    X(COMMIT_IN_DOUBT, "commit.in_doubt")                                                                              \
    X(COMMIT_RESOLVED, "commit.resolved")                                                                              \
    X(POLL_BEFORE_TAKE, "poll.before_take")                                                                            \
    X(POLL_AFTER_TAKE, "poll.after_take")                                                                              \
    X(POLL_BEFORE_PROGRESS, "poll.before_progress")                                                                    \
    X(POLL_AFTER_PROGRESS, "poll.after_progress")                                                                      \
    X(POLL_AFTER_GAIN, "poll.after_gain")                                                                              \
    X(POLL_BEFORE_HANDOVER, "poll.before_handover")                                                                    \
    X(POLL_BEFORE_LOSE, "poll.before_lose")                                                                            \
    X(POLL_AFTER_LOSE, "poll.after_lose")                                                                              \
    X(POLL_BEFORE_LEAVE, "poll.before_leave")                                                                          \
    X(POLL_BEFORE_QUEUE, "poll.before_queue")                                                                          \
    X(POLL_AFTER_QUEUE, "poll.after_queue")                                                                            \
    X(POLL_BEFORE_FLOW, "poll.before_flow")                                                                            \
    X(POLL_HANDOVER_PUBLISH, "poll.handover_publish")                                                                  \
    X(DEVICE_BEFORE_SUBMIT, "device.before_submit")                                                                    \
    X(DEVICE_AFTER_STEP, "device.after_step")                                                                          \
    X(DEVICE_BEFORE_CANCEL, "device.before_cancel")                                                                    \
    X(LEDGER_BEFORE_FINISH, "ledger.before_finish")                                                                    \
    X(LEDGER_AFTER_FINISH, "ledger.after_finish")                                                                      \
    X(TAKEOVER_BEFORE_FENCE, "takeover.before_fence")                                                                  \
    X(TAKEOVER_AFTER_FENCE, "takeover.after_fence")                                                                    \
    X(PRODUCER_BEFORE_INIT, "producer.before_init")                                                                    \
    X(PRODUCER_AFTER_INIT, "producer.after_init")                                                                      \
    X(PRODUCER_BEFORE_REPLACE, "producer.before_replace")                                                              \
    X(PRODUCER_AFTER_REPLACE, "producer.after_replace")                                                                \
    X(DRAIN_BEGUN, "drain.begun")                                                                                      \
    X(DRAIN_OVER, "drain.over")                                                                                        \
    X(REPLAY_BEFORE_SEND, "replay.before_send")                                                                        \
    X(REPLAY_AFTER_SEND, "replay.after_send")

/* X(name): see the place that asks for it. */
#define BASE_MUTANTS(X)                                                                                                \
    X(map_dropped)                                                                                                     \
    X(base_too_far)                                                                                                    \
    X(base_too_short)                                                                                                  \
    X(offsets_left_out)                                                                                                \
    X(group_after_collect)                                                                                             \
    X(doubt_is_aborted)                                                                                                \
    X(doubt_is_committed)                                                                                              \
    X(results_dropped)                                                                                                 \
    X(parts_ignored)                                                                                                   \
    X(map_of_another)                                                                                                  \
    X(map_not_read)                                                                                                    \
    X(record_not_skipped)                                                                                              \
    X(position_committed)                                                                                              \
    X(outputs_first)                                                                                                   \
    X(offsets_first)                                                                                                   \
    X(revoke_ignored)                                                                                                  \
    X(owner_not_fenced)                                                                                                \
    X(letter_forgotten)                                                                                                \
    X(seed_ignored)

#ifdef ROUSE_CHAOS
enum base_failpoint {
#define BASE_FAILPOINT_ID(id, name) BASE_FAILPOINT_##id,
    BASE_FAILPOINTS(BASE_FAILPOINT_ID)
#undef BASE_FAILPOINT_ID
        BASE_FAILPOINTS_N
};
enum base_mutant {
#define BASE_MUTANT_ID(name) BASE_MUTANT_##name,
    BASE_MUTANTS(BASE_MUTANT_ID)
#undef BASE_MUTANT_ID
        BASE_MUTANTS_N
};
void base_failpoint_pass(enum base_failpoint point);
bool base_mutant_is(enum base_mutant mutant);
#define FAILPOINT(id) base_failpoint_pass(BASE_FAILPOINT_##id)
#define MUTANT(name)  base_mutant_is(BASE_MUTANT_##name)
#else
#define FAILPOINT(id) ((void)0)
#define MUTANT(name)  false
#endif

#endif
