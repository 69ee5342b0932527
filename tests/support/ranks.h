// The ranks of a run as threads of a test, joined as processes are.
#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "train_sft/collective/join.h"

namespace train_sft {

inline int free_port() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  bind(fd, reinterpret_cast<sockaddr*>(&address), length);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  close(fd);
  return ntohs(address.sin_port);
}

inline ProcessPlace place_of(int rank, int count, int port) {
  ProcessPlace place;
  place.rank = place.local_rank = rank;
  place.world_size = place.local_world_size = count;
  place.master_addr = "127.0.0.1";
  place.master_port = port;
  return place;
}

// Does `work` on each of `count` ranks; what was thrown, by rank ("": nothing).
inline std::vector<std::string> on_ranks(int count, std::chrono::seconds timeout,
                                         const std::function<void(Collective&)>& work) {
  std::vector<std::string> thrown(static_cast<size_t>(count));
  std::vector<std::thread> threads;
  const int port = free_port();
  for (int rank = 0; rank < count; ++rank)
    threads.emplace_back([&, rank] {
      try {
        const auto collective = join_processes(place_of(rank, count, port), timeout);
        work(*collective);
        // A rank that leaves early takes rank 0's meeting place or its connections with it.
        collective->barrier("the end of the test");
      } catch (const std::exception& error) {
        thrown[static_cast<size_t>(rank)] = error.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return thrown;
}

}  // namespace train_sft
