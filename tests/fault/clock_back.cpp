// For LD_PRELOAD: a wall clock that is set back by an hour in the middle of everything, again and
// again. The steady clock is left alone, as by a person who sets the time.
#include <dlfcn.h>
#include <time.h>

#include <atomic>

extern "C" int clock_gettime(clockid_t clock, struct timespec* now) {
  using Function = int (*)(clockid_t, struct timespec*);
  static const auto real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "clock_gettime"));
  static std::atomic<long> calls{0};
  const int result = real(clock, now);
  if (clock == CLOCK_REALTIME) now->tv_sec -= 3600 * (calls++ / 50);
  return result;
}
