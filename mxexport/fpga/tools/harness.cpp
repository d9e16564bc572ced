// Drives one verilated top with one AXI4-Stream in and one out, through a C interface (see simulate.py).
//
// ports.h, written by simulate.py, names what the top has: IN_BYTES, OUT_BYTES, HAS_CLOCK, HAS_IN_LAST,
// HAS_OUT_LAST and STATUS(X), which is X(name, bytes) for every other output.
#include "Vtop.h"
#include "ports.h"
#include "verilated.h"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <stdexcept>
#include <string>
#include <unistd.h>

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
};

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

void clock_low(Vtop* top) {
#ifdef HAS_CLOCK
  top->aclk = 0;
#endif
  top->eval();
}

void clock_high(Vtop* top) {
#ifdef HAS_CLOCK
  top->aclk = 1;
#endif
  top->eval();
}

void reset(Vtop* top, int active) {
#ifdef HAS_CLOCK
  top->aresetn = !active;
#else
  (void)top, (void)active;
#endif
}

}  // namespace

// Everything else stays hidden, so that several models live in one process.
#pragma GCC visibility push(default)
extern "C" {

struct Job {
  const uint8_t* in;         // [in_count][IN_BYTES]
  const uint8_t* in_last;    // [in_count]
  int64_t* in_cycle;         // [in_count] cycle in which the beat was taken
  int64_t in_count;
  uint8_t* out;              // [out_count][OUT_BYTES]
  uint8_t* out_last;         // [out_count]
  int64_t* out_cycle;        // [out_count]
  int64_t out_count;         // beats to wait for
  double in_stall, out_stall;  // probability that valid or ready is withheld in a cycle
  uint64_t seed;
  int64_t timeout;           // cycles without any transfer after which to give up
  int64_t drain;             // cycles to go on after the last expected beat
  uint8_t* status;           // the STATUS outputs one after the other
  // results
  int64_t taken, received, surplus, cycles;
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
    Vtop* top = model->top.get();
    top->s_axis_tvalid = 0;
    top->m_axis_tready = 0;
    reset(top, 1);
    for (int i = 0; i < 4; i++) {
      clock_low(top);
      clock_high(top);
    }
    reset(top, 0);
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
  Random in_random(2 * job->seed), out_random(2 * job->seed + 1);
  const uint8_t idle_byte = 0xA5;
  uint8_t idle[IN_BYTES];
  std::memset(idle, idle_byte, sizeof idle);
  uint8_t held[OUT_BYTES], seen[OUT_BYTES];
  bool offering = false, held_valid = false;
  int64_t cycle = 0, quiet = 0, rest = job->drain;
  job->taken = job->received = job->surplus = 0;
  int result = 0;

  while (job->received < job->out_count || rest > 0) {
    if (!offering) {
      offering = job->taken < job->in_count && !in_random.below(job->in_stall);
      top->s_axis_tvalid = offering;
      put(top->s_axis_tdata, offering ? job->in + job->taken * IN_BYTES : idle, IN_BYTES);
#ifdef HAS_IN_LAST
      top->s_axis_tlast = offering && job->in_last[job->taken];
#endif
    }
    top->m_axis_tready = !out_random.below(job->out_stall);
    clock_low(top);

    const bool in_moves = offering && top->s_axis_tready;
    const bool out_moves = top->m_axis_tvalid && top->m_axis_tready;
    std::memcpy(seen, static_cast<const void*>(&top->m_axis_tdata), OUT_BYTES);
    if (held_valid && (!top->m_axis_tvalid || std::memcmp(seen, held, OUT_BYTES) != 0)) {
      result = 2;
      break;
    }
    held_valid = top->m_axis_tvalid && !out_moves;
    std::memcpy(held, seen, OUT_BYTES);

    if (out_moves && job->received < job->out_count) {
      std::memcpy(job->out + job->received * OUT_BYTES, seen, OUT_BYTES);
#ifdef HAS_OUT_LAST
      job->out_last[job->received] = top->m_axis_tlast;
#endif
      job->out_cycle[job->received++] = cycle;
    } else if (out_moves) {
      job->surplus++;
    }
    if (in_moves) {
      job->in_cycle[job->taken++] = cycle;
      offering = false;
    }

    clock_high(top);
    cycle++;
    if (job->received >= job->out_count) rest--;
    quiet = in_moves || out_moves ? 0 : quiet + 1;
    if (job->received < job->out_count && quiet >= job->timeout) {
      result = 1;
      break;
    }
  }

  job->cycles = cycle;
  clock_low(top);
  uint8_t* status = job->status;
#define READ(name, bytes)                                               \
  std::memcpy(status, static_cast<const void*>(&top->name), bytes);     \
  status += bytes;
  STATUS(READ)
#undef READ
  return result;
} catch (const std::exception& error) {
  std::snprintf(message, size, "%s", error.what());
  return 3;
}

}  // extern "C"
#pragma GCC visibility pop
