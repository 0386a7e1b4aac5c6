// Streams, events and captures. Work runs when it is submitted, or with TESSERA_MOCK_DEFER=1 only when something waits for
// it: then a host that looks at memory too early, or reuses it too early, finds the wrong bytes.
#include <thread>

#include "state.hpp"

namespace mock {

bool find_stream(void* handle, Stream*& found) {
    // 1 and 2 name the legacy and the per-thread default stream.
    auto value = reinterpret_cast<uintptr_t>(handle);
    found = value <= 2 ? &driver().default_stream : static_cast<Stream*>(handle);
    return value <= 2 || driver().streams.count(found) != 0;
}

CUresult submit(Stream& stream, Work work) {
    if (stream.capture != nullptr) {
        if (stream.capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        stream.capture->graph->nodes.push_back(std::move(work));
        return CUDA_SUCCESS;
    }
    stream.queue.push_back(std::move(work));
    stream.submitted++;
    if (number_setting("TESSERA_MOCK_DEFER", 0) != 0) return CUDA_SUCCESS;
    return drain(stream);
}

CUresult drain(Stream& stream, unsigned long long position) {
    while (!stream.hung && !stream.queue.empty() && stream.finished < position) {
        Work work = std::move(stream.queue.front());
        stream.queue.pop_front();
        CUresult r = work();
        // What hangs never finishes, and what is behind it never begins.
        if (stream.hung) break;
        stream.finished++;
        if (r != CUDA_SUCCESS) {
            stream.finished += stream.queue.size();
            stream.queue.clear();
            return r;
        }
    }
    return CUDA_SUCCESS;
}

namespace {

// A wait for what never ends: as the driver does, for ever; the lock is let go, so that others may go on.
void wait_for_ever() {
    auto& lock = driver().lock;
    lock.unlock();
    for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
}

CUresult finish(Stream& stream) {
    CUresult r = drain(stream);
    if (stream.hung) wait_for_ever();
    return r;
}

// Whether the event's work has been done; runs what is queued before it.
CUresult reach(Event& event, bool& done) {
    done = true;
    if (event.stream == nullptr || event.done) return CUDA_SUCCESS;
    CUresult r = drain(*event.stream, event.position);
    done = event.done || r != CUDA_SUCCESS;
    return r;
}

bool is_event(void* e) { return driver().events.count(static_cast<Event*>(e)) != 0; }

}  // namespace

CUresult drain_all() {
    CUresult first = finish(driver().default_stream);
    for (Stream* s : driver().streams) {
        CUresult r = finish(*s);
        if (first == CUDA_SUCCESS) first = r;
    }
    return first;
}

CUresult refuse_in_capture() {
    for (Stream* s : driver().streams) {
        if (s->capture == nullptr || s->capture->relaxed || s->capture->thread != std::this_thread::get_id()) continue;
        s->capture->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return CUDA_SUCCESS;
}

}  // namespace mock

using namespace mock;

API cuStreamCreate(void** stream, unsigned flags) {
    return call("cuStreamCreate", Needs::context, [&] {
        if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
        auto* made = new Stream;
        driver().streams.insert(made);
        *stream = made;
        return CUDA_SUCCESS;
    });
}

API cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

API cuStreamDestroy_v2(void* stream) {
    return call("cuStreamDestroy_v2", Needs::context, [&] {
        Stream* s = nullptr;
        if (!find_stream(stream, s) || s == &driver().default_stream) return CUDA_ERROR_INVALID_HANDLE;
        CUresult r = drain(*s);
        for (Event* e : driver().events)
            if (e->stream == s) e->stream = nullptr, e->done = true;
        driver().streams.erase(s);
        delete s;
        return r;
    });
}

API cuStreamSynchronize(void* stream) {
    return call("cuStreamSynchronize", Needs::context, [&] {
        Stream* s = nullptr;
        if (!find_stream(stream, s)) return CUDA_ERROR_INVALID_HANDLE;
        if (s->capture != nullptr) {
            s->capture->invalid = true;
            return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
        return finish(*s);
    });
}

API cuStreamQuery(void* stream) {
    return call("cuStreamQuery", Needs::context, [&] {
        Stream* s = nullptr;
        if (!find_stream(stream, s)) return CUDA_ERROR_INVALID_HANDLE;
        if (s->capture != nullptr) {
            s->capture->invalid = true;
            return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
        CUresult r = drain(*s);
        return r == CUDA_SUCCESS && s->hung ? CUDA_ERROR_NOT_READY : r;
    });
}

API cuStreamWaitEvent(void* stream, void* event, unsigned) {
    return call("cuStreamWaitEvent", Needs::context, [&] {
        Stream* s = nullptr;
        if (!find_stream(stream, s) || !is_event(event)) return CUDA_ERROR_INVALID_HANDLE;
        auto* e = static_cast<Event*>(event);
        if (e->captured != nullptr) {
            // The stream joins the capture in which the event was recorded.
            if (s->capture == nullptr) s->capture = e->captured;
            return s->capture == e->captured ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
        }
        if (e->done || e->stream == nullptr) return CUDA_SUCCESS;
        Stream* other = e->stream;
        unsigned long long position = e->position;
        return submit(*s, [s, other, position] {
            CUresult r = driver().streams.count(other) != 0 ? drain(*other, position) : CUDA_SUCCESS;
            s->hung = s->hung || (other->hung && other->finished < position);
            return r;
        });
    });
}

API cuEventCreate(void** event, unsigned flags) {
    return call("cuEventCreate", Needs::context, [&] {
        auto* made = new Event;
        made->timed = (flags & 2u) == 0;
        driver().events.insert(made);
        *event = made;
        return CUDA_SUCCESS;
    });
}

API cuEventDestroy_v2(void* event) {
    return call("cuEventDestroy_v2", Needs::context, [&] {
        if (!is_event(event)) return CUDA_ERROR_INVALID_HANDLE;
        driver().events.erase(static_cast<Event*>(event));
        delete static_cast<Event*>(event);
        return CUDA_SUCCESS;
    });
}

API cuEventRecord(void* event, void* stream) {
    return call("cuEventRecord", Needs::context, [&] {
        Stream* s = nullptr;
        if (!find_stream(stream, s) || !is_event(event)) return CUDA_ERROR_INVALID_HANDLE;
        auto* e = static_cast<Event*>(event);
        e->captured = s->capture;
        if (s->capture != nullptr) return s->capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
        e->stream = s;
        e->position = s->submitted + 1;
        e->done = false;
        unsigned long long position = e->position;
        return submit(*s, [e, s, position] {
            // It may have been destroyed or recorded again since.
            if (driver().events.count(e) == 0 || e->stream != s || e->position != position) return CUDA_SUCCESS;
            e->done = true;
            e->at = std::chrono::steady_clock::now();
            return CUDA_SUCCESS;
        });
    });
}

API cuEventQuery(void* event) {
    return call("cuEventQuery", Needs::context, [&] {
        if (!is_event(event)) return CUDA_ERROR_INVALID_HANDLE;
        auto* e = static_cast<Event*>(event);
        if (e->captured != nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        bool done = false;
        CUresult r = reach(*e, done);
        return r == CUDA_SUCCESS && !done ? CUDA_ERROR_NOT_READY : r;
    });
}

API cuEventSynchronize(void* event) {
    return call("cuEventSynchronize", Needs::context, [&] {
        if (!is_event(event)) return CUDA_ERROR_INVALID_HANDLE;
        auto* e = static_cast<Event*>(event);
        if (e->captured != nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        bool done = false;
        CUresult r = reach(*e, done);
        if (!done) wait_for_ever();
        return r;
    });
}

API cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    return call("cuEventElapsedTime_v2", Needs::context, [&] {
        if (!is_event(start) || !is_event(end)) return CUDA_ERROR_INVALID_HANDLE;
        auto *a = static_cast<Event*>(start), *b = static_cast<Event*>(end);
        if (!a->timed || !b->timed || a->stream == nullptr || b->stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
        if (!a->done || !b->done) return CUDA_ERROR_NOT_READY;
        *milliseconds = std::chrono::duration<float, std::milli>(b->at - a->at).count();
        return CUDA_SUCCESS;
    });
}

API cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
