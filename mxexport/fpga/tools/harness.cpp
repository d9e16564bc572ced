// Drives one verilated top with any number of AXI4-Streams in and out, through a C interface (see verilator.py).
//
// ports.h, written by verilator.py, names what the top has: HAS_CLOCK; SOURCES(X) and SINKS(X), which are
// X(index, prefix, bytes, last) for every stream; STATUS(X), X(name, bytes) for every other output; and
// MONITORS(X), X(index, valid, ready, last, data, bytes) for every stream inside that is watched. AXI_BYTES: bytes of a
// beat of m_axi_*, where the top reads memory: the harness then is that memory.
#include "Vtop.h"
#include "Vtop___024root.h"
#include "ports.h"
#include "verilated.h"
#ifdef TRACE
#include "verilated_vcd_c.h"
#endif

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <memory>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <vector>

// The simulation must not end the process it runs in: fatal errors and warnings (a memory file that is not
// there is one) become C++ exceptions, caught at the C interface.
static void raise_message(const char* file, int line, const char* message) {
  throw std::runtime_error(std::string(file ? file : "") + ":" + std::to_string(line) + ": " + message);
}
void vl_fatal(const char* file, int line, const char*, const char* message) { raise_message(file, line, message); }
void vl_stop(const char* file, int line, const char*) { raise_message(file, line, "$stop"); }
void vl_finish(const char* file, int line, const char*) { raise_message(file, line, "$finish"); }
void vl_warn(const char* file, int line, const char*, const char* message) { raise_message(file, line, message); }

namespace {

struct Model {
  VerilatedContext context;
  std::unique_ptr<Vtop> top;
#ifdef TRACE
  std::unique_ptr<VerilatedVcdC> trace;
#endif
  uint64_t time = 0;
};

bool no_last = false;  // stands for the TLAST of a stream that has none

// xorshift64*: a stall pattern that is the same on every machine.
struct Random {
  uint64_t state;
  explicit Random(uint64_t seed) : state(seed * 0x9E3779B97F4A7C15u + 1) {}
  bool below(double probability) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return static_cast<double>((state * 0x2545F4914F6CDD1Du) >> 11) < probability * 9007199254740992.0;
  }
};

template <typename Port>
void put(Port& port, const uint8_t* bytes, size_t count) {
  Port value{};
  std::memcpy(static_cast<void*>(&value), bytes, count);
  port = value;
}

void step(Model* model, int clock) {
#ifdef HAS_CLOCK
  model->top->aclk = clock;
#else
  (void)clock;
#endif
  model->top->eval();
#ifdef TRACE
  if (model->trace) model->trace->dump(model->time);
#endif
  model->time++;
}

void reset(Model* model) {
#define IDLE(i, p, bytes, last) model->top->p##_tvalid = 0;
  SOURCES(IDLE)
#undef IDLE
#define IDLE(i, p, bytes, last) model->top->p##_tready = 0;
  SINKS(IDLE)
#undef IDLE
#ifdef AXI_BYTES
  model->top->m_axi_arready = model->top->m_axi_rvalid = 0;
#endif
#ifdef HAS_CLOCK
  model->top->aresetn = 0;
#endif
  for (int i = 0; i < 4; i++) {
    step(model, 0);
    step(model, 1);
  }
#ifdef HAS_CLOCK
  model->top->aresetn = 1;
#endif
}

struct Offer {
  bool valid = false;
};

struct Held {
  bool valid = false;
  uint8_t beat[MOST_BYTES + 1] = {};
};

#ifdef AXI_BYTES
// Memory behind AXI4 read channels: answers in order, `delay` cycles behind the question at the earliest.
struct Memory {
  struct Burst {
    uint64_t offset;
    int64_t beats, from;  // still to come; cycle from which on they may
  };
  const uint8_t* data;
  uint64_t base, size;
  int64_t delay;
  std::deque<Burst> bursts;
  bool answering = false;

  void ask(uint64_t address, int64_t beats, unsigned width, unsigned kind, int64_t cycle) {
    const uint64_t bytes = static_cast<uint64_t>(beats) * AXI_BYTES;
    if (address < base || address + bytes > base + size) fail("reads outside of the weights", address, beats);
    if ((1u << width) != AXI_BYTES || kind != 1) fail("reads narrow or not incrementing", address, beats);
    if (address % 4096 + bytes > 4096) fail("reads across 4 KB", address, beats);
    bursts.push_back({address - base, beats, cycle + delay});
  }
  bool there(int64_t cycle) const { return !bursts.empty() && bursts.front().from <= cycle; }
  bool last() const { return bursts.front().beats == 1; }
  const uint8_t* beat() const { return data + bursts.front().offset; }
  void taken() {
    bursts.front().offset += AXI_BYTES;
    if (--bursts.front().beats == 0) bursts.pop_front();
  }
  [[noreturn]] static void fail(const char* what, uint64_t address, int64_t beats) {
    throw std::runtime_error(std::string("m_axi ") + what + ": " + std::to_string(beats) + " beats from " +
                             std::to_string(address));
  }
};
#endif

template <size_t Bytes>
const uint8_t* idle_beat() {
  static const std::vector<uint8_t> beat(Bytes, 0xA5);
  return beat.data();
}

}  // namespace

// Everything else stays hidden, so that several models live in one process.
#pragma GCC visibility push(default)
extern "C" {

struct Source {
  const uint8_t* data;  // [count][bytes]
  const uint8_t* last;  // [count]
  int64_t* cycle;       // [count] cycle in which the beat was taken
  int64_t count;
  double stall;  // probability that valid is withheld in a cycle
  int64_t taken;
};

struct Sink {
  uint8_t* data;  // [count][bytes]
  uint8_t* last;
  int64_t* cycle;
  int64_t count;  // beats to wait for
  double stall;   // probability that ready is withheld in a cycle
  int64_t received, surplus;
};

struct Monitor {
  uint8_t* data;      // [capacity][bytes] beats that passed
  int64_t capacity;
  int64_t passed, stalled;  // beats; cycles in which a beat waited
  uint8_t valid, ready;     // at the end
};

struct Job {
  Source* sources;
  Sink* sinks;
  Monitor* monitors;
  uint64_t seed;
  int64_t timeout;   // cycles without any transfer after which to give up
  int64_t drain;     // cycles to go on after the last expected beat
  int64_t reset_at;  // cycle of a reset after which everything is sent anew; negative: none
  int64_t ready_after_valid;  // sinks give ready only to a beat that was offered in the cycle before
  const char* trace;          // VCD file; null: none
  uint8_t* status;            // the STATUS outputs one after the other
  const uint8_t* memory;      // behind m_axi_*, from memory_base on; null: none
  int64_t memory_base, memory_size, memory_delay;
  double memory_stall;  // probability that a question or a beat of an answer waits in a cycle
  int64_t cycles;       // result
};

// A model after reset. Its memories are read from files in `directory` ($readmemh takes names relative to the
// working directory of the process; the caller keeps other threads from running during this call).
Model* mx_create(const char* directory, uint64_t seed, char* message, size_t size) {
  const int here = open(".", O_RDONLY | O_DIRECTORY);
  Model* model = nullptr;
  try {
    if (here < 0 || chdir(directory) != 0) throw std::runtime_error(std::string("cannot enter ") + directory);
    model = new Model;
    model->context.debug(0);
    model->context.randReset(2);  // registers start at random: a missing reset shows
    model->context.randSeed(static_cast<int>(seed % 0x7FFFFFFF) + 1);
    model->top = std::make_unique<Vtop>(&model->context, "top");
#ifdef TRACE
    model->context.traceEverOn(true);
#endif
    reset(model);
  } catch (const std::exception& error) {
    std::snprintf(message, size, "%s", error.what());
    delete model;
    model = nullptr;
  }
  if (here >= 0) {
    if (fchdir(here) != 0) std::snprintf(message, size, "cannot return to the working directory");
    close(here);
  }
  return model;
}

void mx_destroy(Model* model) { delete model; }

// 0: done, 1: timeout, 2: an output beat changed or went away before it was taken, 3: see message.
int mx_run(Model* model, Job* job, char* message, size_t size) try {
  Vtop* top = model->top.get();
  std::vector<Offer> offers(IN_COUNT);
  std::vector<Held> held(OUT_COUNT);
  Random random(job->seed);
#ifdef AXI_BYTES
  Memory memory{job->memory, static_cast<uint64_t>(job->memory_base), static_cast<uint64_t>(job->memory_size),
                job->memory_delay, {}};
  top->weights_base_i = memory.base;
  top->weights_go_i = 1;
#endif
  int64_t cycle = 0, quiet = 0, rest = job->drain;
  int result = 0;
#ifdef TRACE
  if (job->trace) {
    model->trace = std::make_unique<VerilatedVcdC>();
    top->trace(model->trace.get(), 99);
    model->trace->open(job->trace);
  }
#endif
  for (int i = 0; i < IN_COUNT; i++) job->sources[i].taken = 0;
  for (int i = 0; i < OUT_COUNT; i++) job->sinks[i].received = job->sinks[i].surplus = 0;

  for (;;) {
    bool done = true;
    for (int i = 0; i < OUT_COUNT; i++) done = done && job->sinks[i].received >= job->sinks[i].count;
    if (done && rest <= 0) break;
    if (cycle == job->reset_at) {
      reset(model);
      job->reset_at = -1;
#ifdef AXI_BYTES
      memory.bursts.clear();
      memory.answering = false;
#endif
      for (int i = 0; i < IN_COUNT; i++) job->sources[i].taken = 0;
      for (int i = 0; i < OUT_COUNT; i++) job->sinks[i].received = job->sinks[i].surplus = 0;
      offers.assign(IN_COUNT, Offer());
      held.assign(OUT_COUNT, Held());
      cycle = quiet = 0;
      continue;
    }

#define OFFER(i, p, bytes, tlast)                                                                     \
  if (!offers[i].valid) {                                                                             \
    Source& s = job->sources[i];                                                                      \
    offers[i].valid = s.taken < s.count && !random.below(s.stall);                                    \
    top->p##_tvalid = offers[i].valid;                                                                \
    put(top->p##_tdata, offers[i].valid ? s.data + s.taken * (bytes) : idle_beat<bytes>(), bytes);    \
    tlast = offers[i].valid && s.last[s.taken];                                                       \
  }
    SOURCES(OFFER)
#undef OFFER
#define ACCEPT(i, p, bytes, tlast) \
  top->p##_tready = !random.below(job->sinks[i].stall) && (!job->ready_after_valid || held[i].valid);
    SINKS(ACCEPT)
#undef ACCEPT
#ifdef AXI_BYTES
    top->m_axi_arready = memory.bursts.size() < 64 && !random.below(job->memory_stall);
    if (!memory.answering) {
      memory.answering = memory.there(cycle) && !random.below(job->memory_stall);
      top->m_axi_rvalid = memory.answering;
      put(top->m_axi_rdata, memory.answering ? memory.beat() : idle_beat<AXI_BYTES>(), AXI_BYTES);
      top->m_axi_rlast = memory.answering && memory.last();
      top->m_axi_rresp = 0;
    }
#endif
    step(model, 0);

    bool moved = false;
#ifdef AXI_BYTES
    if (memory.answering && top->m_axi_rready) {
      memory.taken();
      memory.answering = false;
      moved = true;
    }
    if (top->m_axi_arvalid && top->m_axi_arready) {
      memory.ask(top->m_axi_araddr, top->m_axi_arlen + 1, top->m_axi_arsize, top->m_axi_arburst, cycle);
      moved = true;
    }
#endif
#define MOVE(i, p, bytes, tlast)                      \
  if (offers[i].valid && top->p##_tready) {           \
    Source& s = job->sources[i];                      \
    s.cycle[s.taken++] = cycle;                       \
    offers[i].valid = false;                          \
    moved = true;                                     \
  }
    SOURCES(MOVE)
#undef MOVE
#define TAKE(i, p, bytes, tlast)                                                                      \
  {                                                                                                   \
    Sink& s = job->sinks[i];                                                                          \
    uint8_t seen[(bytes) + 1];                                                                        \
    std::memcpy(seen, static_cast<const void*>(&top->p##_tdata), bytes);                              \
    seen[bytes] = tlast;                                                                              \
    if (held[i].valid && (!top->p##_tvalid || std::memcmp(seen, held[i].beat, sizeof seen) != 0)) {   \
      result = 2;                                                                                     \
      break;                                                                                          \
    }                                                                                                 \
    const bool moves = top->p##_tvalid && top->p##_tready;                                            \
    held[i].valid = top->p##_tvalid && !moves;                                                        \
    std::memcpy(held[i].beat, seen, sizeof seen);                                                     \
    if (moves && s.received < s.count) {                                                              \
      std::memcpy(s.data + s.received * (bytes), seen, bytes);                                        \
      s.last[s.received] = tlast;                                                                     \
      s.cycle[s.received++] = cycle;                                                                  \
    } else if (moves) {                                                                               \
      s.surplus++;                                                                                    \
    }                                                                                                 \
    moved = moved || moves;                                                                           \
  }
    SINKS(TAKE)
#undef TAKE
#define WATCH(i, is_valid, is_ready, is_last, bits, bytes)                                            \
  {                                                                                                   \
    Monitor& m = job->monitors[i];                                                                    \
    m.valid = is_valid;                                                                               \
    m.ready = is_ready;                                                                               \
    if (m.valid && !m.ready) m.stalled++;                                                             \
    if (m.valid && m.ready) {                                                                         \
      if (m.passed < m.capacity)                                                                      \
        std::memcpy(m.data + m.passed * (bytes), static_cast<const void*>(&bits), bytes);             \
      m.passed++;                                                                                     \
    }                                                                                                 \
  }
    MONITORS(WATCH)
#undef WATCH

    step(model, 1);
    cycle++;
    if (done) rest--;
    quiet = moved ? 0 : quiet + 1;
    if (!done && quiet >= job->timeout) {
      result = 1;
      break;
    }
  }

  job->cycles = cycle;
  step(model, 0);
  uint8_t* status = job->status;
#define READ(name, bytes)                                               \
  std::memcpy(status, static_cast<const void*>(&top->name), bytes);     \
  status += bytes;
  STATUS(READ)
#undef READ
#ifdef TRACE
  if (model->trace) model->trace->close();
#endif
  return result;
} catch (const std::exception& error) {
  std::snprintf(message, size, "%s", error.what());
  return 3;
}

}  // extern "C"
#pragma GCC visibility pop
