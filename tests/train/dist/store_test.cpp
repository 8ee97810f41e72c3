#include "train/dist/store.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/error.h"
#include "tests/train/dist/ranks.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    return error.what();
  }
  return "accepted";
}

// In processes of their own: a gtest binary that forks must not run the store's threads itself.
test::RankOutcome alone(const std::function<std::string()>& body) {
  test::Ranks ranks(1, [&](int64_t) { return body(); });
  return ranks.outcome(0);
}

TEST(Store, KeepsTextsByPrefix) {
  const auto outcome = alone([] {
    const StoreAddress address{"127.0.0.1", test::free_port(), true, "run/0"};
    TcpStore store(address, 5s, 5s);
    const std::string bytes("a\0b\nc", 5);
    store.set("key", bytes);
    store.set("other", "");
    EXPECT_EQ(store.get("key"), bytes);
    EXPECT_EQ(store.get("other"), "");
    EXPECT_FALSE(store.get("none").has_value());
    EXPECT_EQ(store.get_all({"other", "key"}), (std::vector<std::string>{"", bytes}));
    EXPECT_EQ(store.add("n", 2), 2);
    EXPECT_EQ(store.another(5s)->add("n", 3), 5);
    store.erase("key");
    EXPECT_FALSE(store.get("key").has_value());
    StoreAddress later = address;
    later.serve = false;
    later.prefix = "run/1";
    EXPECT_FALSE(TcpStore(later, 5s, 5s).get("other").has_value());
    return testing::Test::HasFailure() ? "failed" : "passed";
  });
  EXPECT_EQ(outcome.text, "passed");
}

TEST(Store, NobodyThere) {
  const auto outcome = alone([] {
    return refusal([] { TcpStore({"127.0.0.1", test::free_port(), false, "p"}, 1s, 1s); });
  });
  EXPECT_NE(outcome.text.find("cannot reach the store of the run at 127.0.0.1"), std::string::npos)
      << outcome.text;
  EXPECT_LT(outcome.seconds, 20);
}

TEST(Store, ThePortIsTaken) {
  const auto outcome = alone([] {
    const StoreAddress address{"127.0.0.1", test::free_port(), true, "p"};
    const TcpStore first(address, 2s, 2s);
    return refusal([&] { TcpStore(address, 2s, 2s); });
  });
  EXPECT_NE(outcome.text.find("MASTER_PORT to a free one"), std::string::npos) << outcome.text;
}

TEST(Store, SomethingElseAnswers) {
  const auto outcome = alone([] {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    require(bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0 && listen(fd, 5) == 0 &&
                getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0,
            ErrorCode::kInternal, "no socket to listen at");
    return refusal([&] { TcpStore({"127.0.0.1", ntohs(address.sin_port), false, "p"}, 1s, 1s); });
  });
  EXPECT_NE(outcome.text.find("cannot reach the store"), std::string::npos) << outcome.text;
  EXPECT_LT(outcome.seconds, 20);
}

TEST(Store, AStoppedServerIsAnError) {
  const int64_t port = test::free_port();
  test::Ranks ranks(2, [&](int64_t rank) -> std::string {
    TcpStore store({"127.0.0.1", port, rank == 0, "p"}, 5s, 1s);
    store.set(std::to_string(rank), "here");
    if (rank == 0) {
      store.wait("1", 5s);
      raise(SIGSTOP);
    }
    return refusal([&] {
      while (true) store.get("0");
    });
  });
  const auto outcome = ranks.outcome(1);
  EXPECT_NE(outcome.text.find("has not answered within 1 s"), std::string::npos) << outcome.text;
  EXPECT_LT(outcome.seconds, 20);
}

}  // namespace
}  // namespace ashlar
