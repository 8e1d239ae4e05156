/* Streams and events: handles, waiting, asking. */
#include <algorithm>

#include "libcuda_state.h"

struct stream_state {
    std::unordered_set<CUstream> live;
    std::vector<CUstream> all; /* the dead as well, whose work still happens; without the legacy stream */
    std::unordered_set<CUevent> events;
    CUstream_st legacy;
    uint32_t next_id = 1;
};

static stream_state &state()
{
    static stream_state *s = [] {
        auto *fresh = new stream_state;
        fresh->legacy.legacy = true;
        return fresh;
    }();
    return *s;
}

static thread_local CUstream_st *per_thread_stream;

CUstream stream_legacy()
{
    return &state().legacy;
}

std::vector<CUstream> streams_all()
{
    return state().all;
}

uint32_t stream_new_id()
{
    return state().next_id++;
}

static CUstream stream_new(bool blocking)
{
    auto *s = kept(new CUstream_st);
    s->id = stream_new_id();
    s->blocking = blocking;
    state().live.insert(s);
    state().all.push_back(s);
    return s;
}

CUresult stream_of(CUstream handle, CUstream *out)
{
    if (handle == nullptr || handle == CU_STREAM_LEGACY) {
        *out = stream_legacy();
        return CUDA_SUCCESS;
    }
    if (handle == CU_STREAM_PER_THREAD) {
        if (!per_thread_stream)
            per_thread_stream = stream_new(true);
        *out = per_thread_stream;
        return CUDA_SUCCESS;
    }
    if (state().live.count(handle)) {
        *out = handle;
        return CUDA_SUCCESS;
    }
    bool dead = std::find(state().all.begin(), state().all.end(), handle) != state().all.end();
    misuse("stale-handle", "stream %p %s", (void *)handle, dead ? "was destroyed" : "was never created");
    return CUDA_ERROR_INVALID_HANDLE;
}

static CUresult stream_create(CUstream *out, unsigned flags)
{
    if (!out || flags > CU_STREAM_NON_BLOCKING) {
        misuse("invalid-value", "a stream with flags 0x%x", flags);
        return CUDA_ERROR_INVALID_VALUE;
    }
    *out = stream_new(flags != CU_STREAM_NON_BLOCKING);
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    return stream_create(phStream, Flags);
}

CUresult cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    (void)priority; /* out of the range is clamped, and none of it is promised */
    return stream_create(phStream, flags);
}

CUresult cuStreamDestroy(CUstream hStream)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    if (!state().live.count(hStream)) {
        misuse("stale-handle", "cuStreamDestroy(%p): not a stream, or destroyed before", (void *)hStream);
        return CUDA_ERROR_INVALID_HANDLE;
    }
    capture_kill(hStream, "cuStreamDestroy");
    state().live.erase(hStream);
    return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    if (leastPriority)
        *leastPriority = 0;
    if (greatestPriority)
        *greatestPriority = -5;
    return CUDA_SUCCESS;
}

/* Everything that a stream's end must wait for; of the legacy stream: the tails of all blocking ones. */
static CUresult wait_stream(CUstream stream)
{
    if (stream->legacy) {
        for (CUstream s : streams_all())
            if (s->blocking)
                work_wait(s->tail);
    }
    work_wait(stream->tail);
    return work_fault();
}

CUresult cuStreamSynchronize(CUstream hStream)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUstream stream;
    CUresult rc = stream_of(hStream, &stream);
    if (rc == CUDA_SUCCESS && capture_active(stream)) {
        capture_kill(stream, __func__);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (rc == CUDA_SUCCESS)
        rc = capture_refuse_unsafe(__func__);
    return rc == CUDA_SUCCESS ? wait_stream(stream) : rc;
}

CUresult cuCtxSynchronize(void)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return work_wait_all();
}

/* Twice not ready, then done: polling ends, and nobody can count on the first answer. */
static CUresult query(const op_ref &target)
{
    if (!target)
        return work_fault();
    if (target->n_queries++ < 2 && !target->known) {
        work_run_now_and_then();
        return work_fault() != CUDA_SUCCESS ? work_fault() : CUDA_ERROR_NOT_READY;
    }
    return work_wait(target);
}

CUresult cuStreamQuery(CUstream hStream)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUstream stream;
    CUresult rc = stream_of(hStream, &stream);
    if (rc == CUDA_SUCCESS && capture_active(stream)) {
        capture_kill(stream, __func__);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (rc == CUDA_SUCCESS)
        rc = capture_refuse_unsafe(__func__);
    return rc == CUDA_SUCCESS ? query(stream->tail) : rc;
}

/* --- events -------------------------------------------------------------------------------------------------------------------- */

static CUresult event_of(CUevent event, const char *call)
{
    if (state().events.count(event))
        return CUDA_SUCCESS;
    misuse("stale-handle", "%s: event %p was destroyed, or never created", call, (void *)event);
    return CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    if (!phEvent || Flags & ~(unsigned)(CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING)) {
        misuse("invalid-value", "cuEventCreate: flags 0x%x", Flags);
        return CUDA_ERROR_INVALID_VALUE;
    }
    auto *e = kept(new CUevent_st);
    e->timing = !(Flags & CU_EVENT_DISABLE_TIMING);
    state().events.insert(e);
    *phEvent = e;
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent hEvent)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = event_of(hEvent, __func__);
    if (rc != CUDA_SUCCESS)
        return rc;
    state().events.erase(hEvent);
    hEvent->recorded.reset();
    return CUDA_SUCCESS;
}

static CUresult event_record(CUevent event, CUstream handle, const char *call)
{
    CUstream stream;
    CUresult rc = event_of(event, call);
    if (rc == CUDA_SUCCESS)
        rc = stream_of(handle, &stream);
    if (rc == CUDA_SUCCESS)
        rc = capture_refuse_legacy(stream, call);
    if (rc != CUDA_SUCCESS)
        return rc;
    if (capture_active(stream)) {
        event->captured = stream->capturing;
        event->captured_nodes = stream->capture_tail;
        return CUDA_SUCCESS;
    }
    event->captured.reset();
    event->captured_nodes.clear();
    job j;
    j.what = "cuEventRecord";
    event->recorded = work_push(stream, std::move(j), {});
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent hEvent, CUstream hStream)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    return event_record(hEvent, hStream, __func__);
}

/* An event that belongs to a capture has not happened, and will not. */
static CUresult refuse_captured(CUevent event, const char *call)
{
    if (!event->captured)
        return capture_refuse_unsafe(call);
    misuse("captured-event", "%s: the event was last recorded in a capture", call);
    return CUDA_ERROR_CAPTURED_EVENT;
}

CUresult cuEventQuery(CUevent hEvent)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = event_of(hEvent, __func__);
    if (rc == CUDA_SUCCESS)
        rc = refuse_captured(hEvent, __func__);
    return rc == CUDA_SUCCESS ? query(hEvent->recorded) : rc;
}

CUresult cuEventSynchronize(CUevent hEvent)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = event_of(hEvent, __func__);
    if (rc == CUDA_SUCCESS)
        rc = refuse_captured(hEvent, __func__);
    return rc == CUDA_SUCCESS ? work_wait(hEvent->recorded) : rc;
}

CUresult cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = event_of(hStart, __func__);
    if (rc == CUDA_SUCCESS)
        rc = event_of(hEnd, __func__);
    if (rc != CUDA_SUCCESS)
        return rc;
    if (!pMilliseconds || !hStart->timing || !hEnd->timing || !hStart->recorded || !hEnd->recorded) {
        misuse("event-without-time", "cuEventElapsedTime: an event that was not recorded, or has no timing");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (!hStart->recorded->known || !hEnd->recorded->known)
        return CUDA_ERROR_NOT_READY;
    *pMilliseconds = (float)((hEnd->recorded->end_ns - hStart->recorded->end_ns) / 1e6);
    return CUDA_SUCCESS;
}

static CUresult stream_wait_event(CUstream stream, CUevent event)
{
    if (!event->recorded)
        return CUDA_SUCCESS;
    job j;
    j.what = "cuStreamWaitEvent";
    work_push(stream, std::move(j), {event->recorded});
    return CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUstream stream;
    CUresult rc = stream_of(hStream, &stream);
    if (rc == CUDA_SUCCESS)
        rc = event_of(hEvent, __func__);
    if (rc == CUDA_SUCCESS && Flags != 0)
        rc = CUDA_ERROR_INVALID_VALUE;
    if (rc == CUDA_SUCCESS)
        rc = capture_refuse_legacy(stream, __func__);
    if (rc != CUDA_SUCCESS)
        return rc;
    return capture_active(stream) || hEvent->captured ? capture_wait(stream, hEvent)
                                                      : stream_wait_event(stream, hEvent);
}

void stream_report_leaks()
{
    for (CUstream s : state().live)
        if (s != per_thread_stream)
            misuse("leak-stream", "stream %p was not destroyed", (void *)s);
    for (CUevent e : state().events)
        misuse("leak-event", "event %p was not destroyed", (void *)e);
}
