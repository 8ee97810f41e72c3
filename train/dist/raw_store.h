#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace ashlar {

/// What TcpStore wraps; its calls may block without end.
struct RawStore {
  c10::intrusive_ptr<c10d::Store> store;
};

}  // namespace ashlar
