#include "train/monitor/prometheus.h"

#include <fmt/format.h>
#include <httplib.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";
constexpr size_t kThreads = 2;
constexpr int kSocketSeconds = 5;
constexpr size_t kLargestRequest = 4096;

bool is_name(std::string_view name, bool colons) {
  const auto letter = [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (colons && c == ':');
  };
  if (name.empty() || !letter(name[0])) return false;
  for (const char c : name) {
    if (!letter(c) && !(c >= '0' && c <= '9')) return false;
  }
  return true;
}

// Backslash and newline are escaped everywhere, quotes in label values alone.
std::string escaped(std::string_view text, bool quotes) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\\\";
    else if (c == '\n')
      out += "\\n";
    else if (c == '"' && quotes)
      out += "\\\"";
    else
      out += c;
  }
  return out;
}

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

}  // namespace

PrometheusMetrics::PrometheusMetrics(const Labels& labels) {
  for (const auto& [name, value] : labels) {
    ASHLAR_CHECK(is_name(name, false));
    labels_ += fmt::format("{}{}=\"{}\"", labels_.empty() ? '{' : ',', name, escaped(value, true));
  }
  if (!labels_.empty()) labels_ += '}';
}

void PrometheusMetrics::set(const std::string& name, const char* type, const std::string& help,
                            double value) {
  ASHLAR_CHECK(is_name(name, true));
  const std::lock_guard lock(mutex_);
  Metric& metric = metrics_[name];
  ASHLAR_CHECK(metric.type == nullptr || std::string_view(metric.type) == type);
  metric = {type, help, value};
}

void PrometheusMetrics::gauge(const std::string& name, const std::string& help, double value) {
  set(name, "gauge", help, value);
}

void PrometheusMetrics::counter(const std::string& name, const std::string& help, double value) {
  set(name, "counter", help, value);
}

std::string PrometheusMetrics::text() const {
  const std::lock_guard lock(mutex_);
  std::string out;
  for (const auto& [name, m] : metrics_) {
    out += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n{0}{3} {4}\n", name, escaped(m.help, false),
                       m.type, labels_, number(m.value));
  }
  return out;
}

HostPort parse_host_port(std::string_view address, std::string_view key) {
  const size_t colon = address.rfind(':');
  HostPort out;
  bool good = colon != std::string_view::npos && colon > 0;
  if (good) {
    const std::string_view port = address.substr(colon + 1);
    const auto [stop, code] = std::from_chars(port.data(), port.data() + port.size(), out.port);
    good = code == std::errc{} && stop == port.data() + port.size() && out.port >= 0 &&
           out.port <= 65535;
    std::string_view host = address.substr(0, colon);
    const bool bracketed = host.starts_with('[') && host.ends_with(']');
    if (bracketed) host = host.substr(1, host.size() - 2);
    good = good && !host.empty() && (bracketed || host.find(':') == std::string_view::npos);
    out.host = host;
  }
  require(good, ErrorCode::kRequest,
          "{}: '{}' is no address and port, such as 127.0.0.1:9400 or [::1]:9400", key, address);
  return out;
}

struct PrometheusEndpoint::State {
  httplib::Server server;
  std::thread thread;
  std::atomic<bool> ended{false};
  int port = 0;
};

PrometheusEndpoint::PrometheusEndpoint(const HostPort& address, const PrometheusMetrics& metrics)
    : state_(std::make_unique<State>()) {
  httplib::Server& server = state_->server;
  // Two servers on one port, which SO_REUSEPORT would allow, would share the requests.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server.set_keep_alive_max_count(1);
  server.set_read_timeout(kSocketSeconds);
  server.set_write_timeout(kSocketSeconds);
  server.set_payload_max_length(kLargestRequest);
  server.Get("/metrics", [&metrics](const httplib::Request&, httplib::Response& response) {
    response.set_content(metrics.text(), kContentType);
  });
  server.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("ok\n", "text/plain");
  });
  errno = 0;
  if (address.port == 0) {
    state_->port = server.bind_to_any_port(address.host);
  } else {
    state_->port = server.bind_to_port(address.host, address.port) ? address.port : -1;
  }
  const int reason = errno;
  require(state_->port > 0, ErrorCode::kRequest, "log.prometheus: cannot listen on {}:{}{}",
          address.host, address.port,
          reason != 0 ? fmt::format(": {}", std::strerror(reason)) : std::string());
  state_->thread = std::thread([state = state_.get()] {
    state->server.listen_after_bind();
    state->ended = true;
  });
  // stop() of a server that does not run yet would be forgotten.
  while (!server.is_running() && !state_->ended) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

PrometheusEndpoint::~PrometheusEndpoint() {
  state_->server.stop();
  state_->thread.join();
}

int PrometheusEndpoint::port() const { return state_->port; }

}  // namespace ashlar
