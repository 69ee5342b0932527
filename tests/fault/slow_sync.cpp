// For LD_PRELOAD: a disk that takes SLOW_SYNC_MS for each fsync of a file of a checkpoint whose
// path has SLOW_SYNC_PATH in it. As of a disk, no signal but SIGKILL ends the wait.
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

extern "C" int fsync(int fd) {
  using Function = int (*)(int);
  static const auto real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "fsync"));
  char link[64], path[4096];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  path[length > 0 ? length : 0] = '\0';
  const char* given = std::getenv("SLOW_SYNC_MS");
  const char* of = std::getenv("SLOW_SYNC_PATH");
  if (given != nullptr && std::strstr(path, "saving") != nullptr &&
      (of == nullptr || std::strstr(path, of) != nullptr)) {
    const long ms = std::atol(given);
    timespec pause{ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&pause, &pause) != 0) {
    }
  }
  return real(fd);
}
