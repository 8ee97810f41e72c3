#include "train/dist/store.h"

#include <c10/util/Logging.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "core/base/error.h"
#include "train/dist/guarded_thread.h"
#include "train/dist/raw_store.h"

namespace ashlar {
namespace {

using std::chrono::milliseconds;

// c10d puts C++ stack traces behind the first line of its messages.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

double seconds(milliseconds time) { return static_cast<double>(time.count()) / 1000; }

std::string place(const StoreAddress& address) {
  return fmt::format("{}:{}", address.host, address.port);
}

// c10d prints pages of stack frames for what ends up in our messages, in one line, anyway.
void quiet_c10d() {
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = c10::GLOG_FATAL;
}

c10::intrusive_ptr<c10d::Store> open_store(const StoreAddress& address, milliseconds timeout) {
  quiet_c10d();
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(address.port);
  options.isServer = address.serve;
  options.waitWorkers = false;
  options.timeout = timeout;
  return c10::make_intrusive<c10d::TCPStore>(address.host, options);
}

[[noreturn]] void refused(const StoreAddress& address, const std::string& reason) {
  if (address.serve) {
    fail(ErrorCode::kIo,
         "rank 0 cannot serve the store of the run at {}: {}; is another run using the port? Set "
         "MASTER_PORT to a free one on every rank, and MASTER_ADDR to an address of rank 0's host",
         place(address), reason);
  }
  fail(ErrorCode::kIo,
       "cannot reach the store of the run at {}: {}; is rank 0 running there, and do MASTER_ADDR "
       "and MASTER_PORT say the same on every rank?",
       place(address), reason);
}

}  // namespace

struct TcpStore::State {
  StoreAddress address;
  milliseconds connect_timeout, operation_timeout;
  RawStore raw;
  GuardedThread thread;

  // `call` runs elsewhere and may outlive this object: it gets what it needs by value.
  template <typename Result, typename Call>
  Result run(const char* what, const std::string& key, Call call) {
    auto result = std::make_shared<Result>();
    bool ended = false;
    try {
      ended = thread.run([result, call, store = raw.store] { *result = call(*store); },
                         operation_timeout);
    } catch (const std::exception& error) {
      fail(ErrorCode::kIo, "the store of the run at {}, served by {}, failed to {} \"{}\": {}",
           place(address), address.server, what, key, first_line(error.what()));
    }
    require(ended, ErrorCode::kIo,
            "the store of the run at {}, served by {}, has not answered within {} s (to {} \"{}\")",
            place(address), address.server, seconds(operation_timeout), what, key);
    return std::move(*result);
  }
};

TcpStore::TcpStore(const StoreAddress& address, milliseconds connect_timeout,
                   milliseconds operation_timeout)
    : state_(std::make_unique<State>()) {
  state_->address = address;
  state_->connect_timeout = connect_timeout;
  state_->operation_timeout = operation_timeout;
  auto opened = std::make_shared<RawStore>();
  bool ended = false;
  try {
    // c10d itself gives up after the timeout, but waits without end for the answer of a server that
    // speaks something else.
    ended = state_->thread.run(
        [=] {
          opened->store = c10::make_intrusive<c10d::PrefixStore>(
              address.prefix, open_store(address, connect_timeout));
        },
        connect_timeout + std::chrono::seconds(2));
  } catch (const std::exception& error) {
    refused(address, first_line(error.what()));
  }
  if (!ended) {
    refused(address, fmt::format("something listens, but does not answer as a store within {} s",
                                 seconds(connect_timeout)));
  }
  state_->raw = *opened;
}

TcpStore::~TcpStore() = default;

void TcpStore::set(const std::string& key, const std::string& value) {
  state_->run<bool>("set", key, [=](c10d::Store& store) {
    store.set(key, std::vector<uint8_t>(value.begin(), value.end()));
    return true;
  });
}

std::optional<std::string> TcpStore::get(const std::string& key) {
  using Value = std::optional<std::string>;
  return state_->run<Value>("get", key, [=](c10d::Store& store) -> Value {
    if (!store.check({key})) return std::nullopt;
    const std::vector<uint8_t> value = store.get(key);
    return std::string(value.begin(), value.end());
  });
}

void TcpStore::erase(const std::string& key) {
  state_->run<bool>("erase", key, [=](c10d::Store& store) { return store.deleteKey(key); });
}

std::vector<std::string> TcpStore::get_all(const std::vector<std::string>& keys) {
  using Values = std::vector<std::string>;
  if (keys.empty()) return {};
  return state_->run<Values>("get", keys.front(), [=](c10d::Store& store) {
    Values values;
    for (const auto& value : store.multiGet(keys)) values.emplace_back(value.begin(), value.end());
    return values;
  });
}

int64_t TcpStore::add(const std::string& key, int64_t value) {
  return state_->run<int64_t>("add to", key,
                              [=](c10d::Store& store) { return store.add(key, value); });
}

std::unique_ptr<TcpStore> TcpStore::another(milliseconds operation_timeout) const {
  StoreAddress address = state_->address;
  address.serve = false;
  return std::make_unique<TcpStore>(address, state_->connect_timeout, operation_timeout);
}

const StoreAddress& TcpStore::address() const { return state_->address; }
const RawStore& TcpStore::raw() const { return state_->raw; }

}  // namespace ashlar
