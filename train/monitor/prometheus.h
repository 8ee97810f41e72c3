#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ashlar {

/// Current values of a run's metrics in Prometheus' text exposition format 0.0.4. Safe for any
/// thread.
class PrometheusMetrics {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;
  /// `labels` stand at every sample, such as {"run", folder}, {"rank", "0"}. Names of metrics match
  /// [a-zA-Z_:][a-zA-Z0-9_:]*, those of labels [a-zA-Z_][a-zA-Z0-9_]*; others are internal errors.
  explicit PrometheusMetrics(const Labels& labels);

  /// A value that goes up and down.
  void gauge(const std::string& name, const std::string& help, double value);
  /// A total that only grows; a smaller value than before is taken as a restart, as readers do.
  void counter(const std::string& name, const std::string& help, double value);
  /// All metrics, each with HELP and TYPE, by name.
  std::string text() const;

 private:
  struct Metric {
    const char* type = nullptr;
    std::string help;
    double value = 0;
  };
  void set(const std::string& name, const char* type, const std::string& help, double value);

  std::string labels_;  // "{run=\"…\"}" or ""
  mutable std::mutex mutex_;
  std::map<std::string, Metric> metrics_;
};

struct HostPort {
  std::string host;
  int port = 0;
};
/// Reads "127.0.0.1:9400" or "[::1]:9400"; port 0 takes any that is free. Throws Error(kRequest)
/// naming `key`.
HostPort parse_host_port(std::string_view address, std::string_view key);

/// Serves GET /metrics and GET /healthz over HTTP from threads of its own.
class PrometheusEndpoint {
 public:
  /// Listens before it returns. Throws Error(kRequest) when the address cannot be bound: another
  /// process has the port, or it is none of this machine's. `metrics` must outlive it.
  PrometheusEndpoint(const HostPort& address, const PrometheusMetrics& metrics);
  ~PrometheusEndpoint();
  PrometheusEndpoint(const PrometheusEndpoint&) = delete;
  PrometheusEndpoint& operator=(const PrometheusEndpoint&) = delete;
  int port() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ashlar
