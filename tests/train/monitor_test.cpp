#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <sys/socket.h>

#include <thread>

#include "core/io/json.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"
#include "train/monitor/progress_line.h"
#include "train/monitor/prometheus.h"
#include "train/monitor/trace.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;

// Events of a lane, by the name that the trace gives it.
std::vector<Node> events_of(const Node& trace, const std::string& lane) {
  int64_t tid = -1;
  std::vector<Node> out;
  for (const Node& e : trace.find("traceEvents")->as_list()) {
    const std::string& name = e.find("name")->as_string();
    if (name == "thread_name" && e.find("args")->find("name")->as_string() == lane) {
      tid = e.find("tid")->as_int();
    }
    if (e.find("ph")->as_string() == "X" && e.find("tid")->as_int() == tid) out.push_back(e);
  }
  return out;
}

TEST(Trace, HoldsLanesNamesAndTimes) {
  const test::TempDir dir;
  Tracer tracer(3);
  const Tracer::Clock::time_point begin(1'234'567'891'011ns);
  tracer.span("communication", "all \"reduce\"\n\xce\xb1\\", begin + 7us, begin + 9us);
  tracer.span("compute", "backward", begin + 5us + 1ns, begin + 6us);
  tracer.span("compute", "forward", begin, begin + 5us + 1ns);
  tracer.write(dir / "trace.json");
  const Node trace = load_json(dir / "trace.json");
  const std::vector<Node> compute = events_of(trace, "compute");
  ASSERT_EQ(compute.size(), 2u);
  EXPECT_EQ(compute[0].find("name")->as_string(), "forward");  // by their beginning
  EXPECT_EQ(compute[0].find("pid")->as_int(), 3);
  // µs; doubles hold these to the nanosecond.
  EXPECT_TRUE(test::within(
      std::vector<double>{compute[0].find("ts")->as_double(), compute[0].find("dur")->as_double(),
                          compute[1].find("ts")->as_double(), compute[1].find("dur")->as_double()},
      std::vector<double>{1234567891.011, 5.001, 1234567896.012, 0.999}, test::exact()));
  const std::vector<Node> communication = events_of(trace, "communication");
  ASSERT_EQ(communication.size(), 1u);
  EXPECT_EQ(communication[0].find("name")->as_string(), "all \"reduce\"\n\xce\xb1\\");
  const Node& process = trace.find("traceEvents")->as_list()[0];
  EXPECT_EQ(process.find("args")->find("name")->as_string(), "rank 3");
}

TEST(Trace, ScopesOfManyThreadsAndNone) {
  const test::TempDir dir;
  constexpr int64_t kThreads = 4, kEach = 25'000;
  Tracer tracer(0);
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&tracer, t] {
      const std::string lane = fmt::format("lane {}", t);
      for (int64_t i = 0; i < kEach; ++i) const ScopedSpan span(&tracer, lane, "work");
    });
  }
  { const ScopedSpan off(nullptr, "lane", "nothing"); }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(tracer.size(), kThreads * kEach);
  {
    const ScopedSpan outer = tracer.scope("compute", "outer");
    std::this_thread::sleep_for(2ms);
  }
  tracer.write(dir / "trace.json");
  const Node trace = load_json(dir / "trace.json");
  EXPECT_EQ(events_of(trace, "lane 2").size(), static_cast<size_t>(kEach));
  ASSERT_EQ(events_of(trace, "compute").size(), 1u);
  EXPECT_GE(events_of(trace, "compute")[0].find("dur")->as_double(), 2000);
  Tracer empty(1);
  empty.write(dir / "empty.json");
  EXPECT_EQ(load_json(dir / "empty.json").find("traceEvents")->as_list().size(), 1u);
}

TEST(ProgressLine, SaysWhatIsKnown) {
  ProgressValues v;
  v.step = 20;
  v.steps = 600;
  v.loss = 3.14159;
  v.tokens_per_second = 12345;
  EXPECT_EQ(progress_line(v), "step 20/600 loss 3.1416 | 12.3k tokens/s");
  EXPECT_EQ(progress_note(v), "loss 3.142 12.3k tok/s");
  v.lr = 3e-4;
  v.grad_norm = 0.5124;
  v.mfu = 0.4123;
  v.communication_wait = 0.0512;
  v.memory_bytes = 3.1 * (1 << 30);
  v.seconds_left = 760;
  EXPECT_EQ(progress_line(v),
            "step 20/600 loss 3.1416 lr 0.0003 norm 0.512 | 12.3k tokens/s, MFU 41.2% | waits: "
            "communication 5.1% | 3.1 GiB | 0:12:40 left");
  EXPECT_EQ(progress_note(v), "loss 3.142 12.3k tok/s 41% MFU 0:12:40 left");
  v.data_wait = 0.003;
  EXPECT_NE(progress_line(v).find("| waits: data 0.3%, communication 5.1% |"), std::string::npos);
  v.communication_wait.reset();
  EXPECT_NE(progress_line(v).find("| waits: data 0.3% |"), std::string::npos);
}

TEST(ProgressLine, Units) {
  const std::vector<std::pair<double, std::string>> counts = {
      {0, "0"},        {7.4, "7"},        {999.4, "999"},   {999.5, "1.00k"},   {9994, "9.99k"},
      {9996, "10.0k"}, {99'940, "99.9k"}, {99'960, "100k"}, {999'600, "1.00M"}, {1.25e6, "1.25M"},
      {3e9, "3.00G"},  {989e12, "989T"},  {2e18, "2000P"}};
  for (const auto& [value, text] : counts) EXPECT_EQ(format_count(value), text) << value;
  const std::vector<std::pair<double, std::string>> durations = {
      {0, "0:00:00"},
      {59.6, "0:01:00"},
      {760, "0:12:40"},
      {93'780, "26:03:00"},
      {12 * 86400 + 7380, "12d 02:03:00"},
      {-1, "?"},
      {std::nan(""), "?"},
      {1.0 / 0.0, "?"}};
  for (const auto& [value, text] : durations) EXPECT_EQ(format_duration(value), text) << value;
  EXPECT_EQ(model_flops_utilization(6e9, 1e5, 1.2e15), 0.5);
  EXPECT_EQ(model_flops_utilization(6e9, 0, 1e15), std::nullopt);
  EXPECT_EQ(model_flops_utilization(6e9, 1e5, 0), std::nullopt);
  EXPECT_EQ(seconds_left(20, 600, 2), 290.0);
  EXPECT_EQ(seconds_left(20, 600, 0), std::nullopt);
}

TEST(Prometheus, TextFormat) {
  PrometheusMetrics metrics({{"run", "a\\b\"c\nd"}, {"rank", "0"}});
  metrics.gauge("ashlar_loss", "Mean loss of the last step, nats", 2.5);
  metrics.counter("ashlar_tokens_total", "Targets seen \\ so\nfar", 1e12);
  metrics.gauge("ashlar_loss", "Mean loss of the last step, nats", 2.25);
  metrics.gauge("ashlar_nan", "h", std::nan(""));
  metrics.gauge("ashlar_inf", "h", -1.0 / 0.0);
  EXPECT_EQ(metrics.text(),
            "# HELP ashlar_inf h\n# TYPE ashlar_inf gauge\n"
            "ashlar_inf{run=\"a\\\\b\\\"c\\nd\",rank=\"0\"} -Inf\n"
            "# HELP ashlar_loss Mean loss of the last step, nats\n# TYPE ashlar_loss gauge\n"
            "ashlar_loss{run=\"a\\\\b\\\"c\\nd\",rank=\"0\"} 2.25\n"
            "# HELP ashlar_nan h\n# TYPE ashlar_nan gauge\n"
            "ashlar_nan{run=\"a\\\\b\\\"c\\nd\",rank=\"0\"} NaN\n"
            "# HELP ashlar_tokens_total Targets seen \\\\ so\\nfar\n"
            "# TYPE ashlar_tokens_total counter\n"
            "ashlar_tokens_total{run=\"a\\\\b\\\"c\\nd\",rank=\"0\"} 1000000000000\n");
  EXPECT_THROW(metrics.gauge("bad-name", "h", 1), Error);
  EXPECT_THROW(metrics.gauge("ashlar_tokens_total", "h", 1), Error);
  EXPECT_THROW(PrometheusMetrics(PrometheusMetrics::Labels{{"1", "x"}}), Error);
  EXPECT_EQ(PrometheusMetrics(PrometheusMetrics::Labels{}).text(), "");
}

TEST(Prometheus, IsServed) {
  PrometheusMetrics metrics(PrometheusMetrics::Labels{});
  std::optional<PrometheusEndpoint> endpoint(std::in_place, HostPort{"127.0.0.1", 0}, metrics);
  httplib::Client client("127.0.0.1", endpoint->port());
  for (const double value : {1.5, 2.5}) {
    metrics.gauge("ashlar_loss", "h", value);
    const auto answer = client.Get("/metrics");
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 200);
    EXPECT_EQ(answer->get_header_value("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
    EXPECT_EQ(answer->body, metrics.text());
    EXPECT_NE(answer->body.find(fmt::format("ashlar_loss {}\n", value)), std::string::npos);
  }
  EXPECT_EQ(client.Get("/healthz")->body, "ok\n");
  EXPECT_EQ(client.Get("/other")->status, 404);
  EXPECT_EQ(client.Post("/metrics", "x", "text/plain")->status, 404);
  const int port = endpoint->port();
  test::expect_error(ErrorCode::kRequest,
                     {fmt::format("127.0.0.1:{}", port), "Address already in use"}, [&] {
                       PrometheusEndpoint(HostPort{"127.0.0.1", port}, metrics);
                     });
  endpoint.reset();
  EXPECT_FALSE(client.Get("/metrics"));
  const PrometheusEndpoint again(HostPort{"127.0.0.1", port}, metrics);  // the port is free again
  test::expect_error(ErrorCode::kRequest, {"203.0.113.7"}, [&] {
    PrometheusEndpoint(HostPort{"203.0.113.7", 9400}, metrics);
  });
}

// A client that says nothing must not keep the others waiting.
TEST(Prometheus, ASilentClientIsNoObstacle) {
  PrometheusMetrics metrics(PrometheusMetrics::Labels{});
  PrometheusEndpoint endpoint({"127.0.0.1", 0}, metrics);
  const int silent = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(endpoint.port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(connect(silent, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  httplib::Client client("127.0.0.1", endpoint.port());
  EXPECT_EQ(client.Get("/healthz")->body, "ok\n");
  close(silent);
}

TEST(Prometheus, Addresses) {
  const auto at = [](const char* text) {
    const HostPort a = parse_host_port(text, "log.prometheus");
    return fmt::format("{}|{}", a.host, a.port);
  };
  EXPECT_EQ(at("127.0.0.1:9400"), "127.0.0.1|9400");
  EXPECT_EQ(at("[::1]:0"), "::1|0");
  EXPECT_EQ(at("localhost:65535"), "localhost|65535");
  for (const char* bad : {"", "9400", ":9400", "host:", "host:65536", "host:-1", "host:12x",
                          "::1:80", "[]:80", "host:99999999999"}) {
    test::expect_error(ErrorCode::kRequest, {"log.prometheus", bad, "127.0.0.1:9400"},
                       [&] { parse_host_port(bad, "log.prometheus"); });
  }
}

}  // namespace
}  // namespace ashlar
