#include "emulator.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

dim3 threadIdx(0), blockIdx(0), blockDim(1), gridDim(1);

// Saves the callee's registers and the stack, and goes on on another.
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");
extern "C" void emulator_switch(void** save, void* to);

namespace emulator {
namespace {

constexpr size_t kStack = 64 << 10;

struct Warp {
  uint64_t values[2][32];
  int arrived = 0, rounds = 0;
};

struct Fibre {
  void* stack_pointer = nullptr;
  bool ended = false;
  int rounds = 0;  // of its warp's exchanges
};

struct Block {
  std::vector<std::unique_ptr<char[]>> stacks;
  std::vector<Fibre> fibres;
  std::vector<Warp> warps;
  void* scheduler = nullptr;
  size_t running = 0;
  int alive = 0, arrived = 0, barriers = 0;
  bool any = false, any_of_last = false;
  uint64_t progress = 0;
  const std::function<void()>* thread = nullptr;
};

Block block;
uint64_t launches = 0;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulated kernel, block %u, thread %u: %s\n", blockIdx.x, threadIdx.x, what);
  std::abort();
}

void yield() {
  emulator_switch(&block.fibres[block.running].stack_pointer, block.scheduler);
}

// All that are left wait: the barrier opens.
void open_barrier() {
  block.arrived = 0;
  block.any_of_last = block.any;
  block.any = false;
  ++block.barriers;
  ++block.progress;
}

void run_fibre() {
  (*block.thread)();
  Fibre& own = block.fibres[block.running];
  own.ended = true;
  ++block.progress;
  if (--block.alive > 0 && block.arrived == block.alive) open_barrier();
  yield();
  fail("goes on after its end");
}

void start(size_t number) {
  if (block.stacks.size() <= number) block.stacks.push_back(std::make_unique<char[]>(kStack));
  auto top = reinterpret_cast<uintptr_t>(block.stacks[number].get() + kStack) & ~uintptr_t{15};
  auto* stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;  // as after a call: the stack is 8 off
  *--stack = reinterpret_cast<void*>(&run_fibre);
  stack -= 6;  // registers
  for (int i = 0; i < 6; ++i) stack[i] = nullptr;
  block.fibres[number].stack_pointer = stack;
}

void run_block(size_t threads, bool backwards) {
  block.fibres.assign(threads, {});
  block.warps.assign((threads + 31) / 32, {});
  block.alive = static_cast<int>(threads);
  block.arrived = 0;
  block.any = false;
  for (size_t t = 0; t < threads; ++t) start(t);
  while (block.alive > 0) {
    const uint64_t before = block.progress;
    for (size_t i = 0; i < threads; ++i) {
      const size_t t = backwards ? threads - 1 - i : i;
      if (block.fibres[t].ended) continue;
      block.running = t;
      threadIdx = dim3(static_cast<uint32_t>(t));
      emulator_switch(&block.scheduler, block.fibres[t].stack_pointer);
    }
    if (block.progress == before) fail("waits for ever");
  }
}

}  // namespace

int lane() {
  return static_cast<int>(threadIdx.x % 32);
}

bool block_barrier(bool any) {
  block.any |= any;
  const int own = block.barriers;
  ++block.progress;
  if (++block.arrived == block.alive) open_barrier();
  while (block.barriers == own) yield();
  return block.any_of_last;
}

const uint64_t* exchange(uint64_t own) {
  Warp& warp = block.warps[block.running / 32];
  Fibre& fibre = block.fibres[block.running];
  const int round = fibre.rounds++;
  uint64_t* values = warp.values[round & 1];
  values[lane()] = own;
  ++block.progress;
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    ++warp.rounds;
  }
  while (warp.rounds == round) yield();
  return values;
}

void launch(dim3 grid, dim3 threads, void* /*stream*/, const std::function<void()>& thread) {
  if (grid.x == 0 || grid.y == 0 || threads.x == 0 || threads.x > 1024)
    fail("a launch that CUDA refuses");
  const bool backwards = ++launches % 2 == 0;
  gridDim = grid;
  blockDim = threads;
  block.thread = &thread;
  const uint64_t blocks = uint64_t{grid.x} * grid.y;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t b = backwards ? blocks - 1 - i : i;
    blockIdx = dim3(static_cast<uint32_t>(b % grid.x), static_cast<uint32_t>(b / grid.x));
    run_block(threads.x, backwards);
  }
}

}  // namespace emulator
