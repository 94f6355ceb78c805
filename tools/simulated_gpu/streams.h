// Streams, events and graphs of the simulated GPU. Work is done when somebody waits for it.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "memory.h"

enum Status : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
};

static std::mt19937_64 chance(number("SIMULATED_ORDER", 0));
static bool is_lazy() { return number("SIMULATED_ORDER", 0) == 0; }

struct Operation {
    std::string name;
    std::function<void()> act;
};
struct Node {
    Operation operation;
    std::set<size_t> after;
};
struct Graph {
    std::vector<Node> nodes;
    bool is_invalid = false;
};
struct Stream;
struct Mark {
    bool is_done = false;
    Stream* stream = nullptr;
    std::chrono::steady_clock::time_point time;
    // Of a capture.
    std::shared_ptr<Graph> graph;
    std::set<size_t> frontier;
};
struct Event {
    bool is_timed;
    std::shared_ptr<Mark> mark;
};
struct Pending {
    Operation operation;
    std::shared_ptr<Mark> waits;
};
struct Stream {
    std::deque<Pending> pending;
    std::shared_ptr<Graph> graph;
    std::set<size_t> frontier;
    bool is_origin = false;
};
static std::set<Stream*> streams;
static std::set<Event*> events;

static void finish(Stream* stream, const std::shared_ptr<Mark>& until);

static void advance(Stream* stream) {
    Pending pending = std::move(stream->pending.front());
    stream->pending.pop_front();
    if (pending.waits) {
        finish(pending.waits->stream, pending.waits);
        return;
    }
    const std::string before = doing;
    doing = pending.operation.name;
    pending.operation.act();
    doing = before;
}

// Until the mark is reached, or all is done.
static void finish(Stream* stream, const std::shared_ptr<Mark>& until) {
    while (until ? !until->is_done : !stream->pending.empty()) {
        if (!is_lazy() && chance() % 2) {
            auto other = std::next(streams.begin(), chance() % streams.size());
            if (!(*other)->pending.empty()) {
                advance(*other);
                continue;
            }
        }
        if (stream->pending.empty()) {
            fail("an event is waited for that nobody records");
        }
        advance(stream);
    }
}
static void finish_all() {
    for (Stream* stream : streams) {
        finish(stream, nullptr);
    }
}

static int enqueue(Stream* stream, std::string name, std::function<void()> act) {
    if (!stream->graph) {
        stream->pending.push_back({{std::move(name), std::move(act)}, nullptr});
        return SUCCESS;
    }
    if (stream->graph->is_invalid) {
        return CAPTURE_INVALIDATED;
    }
    stream->graph->nodes.push_back({{std::move(name), std::move(act)}, stream->frontier});
    stream->frontier = {stream->graph->nodes.size() - 1};
    return SUCCESS;
}
