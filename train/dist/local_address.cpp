#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/error.h"
#include "train/dist/gloo.h"

namespace ashlar {
namespace {

// Connecting a datagram socket sends nothing, but makes the kernel choose a route.
std::string source_of(const addrinfo& target) {
  const int fd = socket(target.ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return "";
  std::string address;
  sockaddr_storage local{};
  socklen_t length = sizeof(local);
  char text[NI_MAXHOST];
  if (connect(fd, target.ai_addr, target.ai_addrlen) == 0 &&
      getsockname(fd, reinterpret_cast<sockaddr*>(&local), &length) == 0 &&
      getnameinfo(reinterpret_cast<sockaddr*>(&local), length, text, sizeof(text), nullptr, 0,
                  NI_NUMERICHOST) == 0) {
    address = text;
  }
  const int error = errno;
  close(fd);
  errno = error;
  return address;
}

}  // namespace

std::string local_address_towards(const std::string& host, int64_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  require(error == 0, ErrorCode::kIo, "cannot resolve the host of rank 0, \"{}\": {}", host,
          gai_strerror(error));
  std::string address;
  for (const addrinfo* one = found; one != nullptr && address.empty(); one = one->ai_next) {
    address = source_of(*one);
  }
  const int reason = errno;
  freeaddrinfo(found);
  require(!address.empty(), ErrorCode::kIo,
          "no network interface of this host leads to rank 0's host \"{}\": {}; set MASTER_ADDR to "
          "an address that it can reach, or GLOO_SOCKET_IFNAME to an interface",
          host, std::strerror(reason));
  return address;
}

}  // namespace ashlar
