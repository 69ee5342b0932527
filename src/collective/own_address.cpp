#include "collective/own_address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

std::string text_of(const sockaddr* address, socklen_t length) {
  std::array<char, NI_MAXHOST> host{};
  if (getnameinfo(address, length, host.data(), host.size(), nullptr, 0, NI_NUMERICHOST) != 0)
    return "";
  return host.data();
}

bool is_loopback(const std::string& address) {
  return address.starts_with("127.") || address == "::1";
}

// "Connecting" a datagram socket sends nothing; it only asks for the way.
std::string address_towards(const addrinfo& target) {
  const int fd = socket(target.ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return "";
  sockaddr_storage own{};
  socklen_t length = sizeof(own);
  std::string found;
  if (connect(fd, target.ai_addr, target.ai_addrlen) == 0 &&
      getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) == 0)
    found = text_of(reinterpret_cast<sockaddr*>(&own), length);
  close(fd);
  return found;
}

std::string first_interface_address() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return "";
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, freeifaddrs);
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    const bool up = (i->ifa_flags & IFF_UP) != 0 && (i->ifa_flags & IFF_LOOPBACK) == 0;
    if (up && i->ifa_addr != nullptr && i->ifa_addr->sa_family == AF_INET)
      return text_of(i->ifa_addr, sizeof(sockaddr_in));
  }
  return "";
}

}  // namespace

std::string own_address_towards(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  // A port is needed for the way to be looked up; which one does not matter.
  if (const int code = getaddrinfo(host.c_str(), "9", &hints, &found); code != 0)
    throw ResourceError("{}: is not known by name ({}); set MASTER_ADDR to its address", host,
                        gai_strerror(code));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  std::string address;
  for (const addrinfo* i = found; i != nullptr && address.empty(); i = i->ai_next)
    address = address_towards(*i);
  if (address.empty() || is_loopback(address)) address = first_interface_address();
  if (address.empty())
    throw ResourceError("{}: no network interface leads there; name one with GLOO_SOCKET_IFNAME",
                        host);
  return address;
}

}  // namespace train_sft
