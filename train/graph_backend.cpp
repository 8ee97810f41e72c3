#include "train/graph_backend.h"

#include "core/base/error.h"
#ifdef ASHLAR_WITH_TORCH_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#endif

namespace ashlar {

#ifdef ASHLAR_WITH_TORCH_CUDA
namespace {

class CudaRecording : public Recording {
 public:
  void capture(c10::MempoolId_t pool, const std::function<void()>& work) {
    // Other threads of the process, those of NCCL among them, go on calling CUDA meanwhile.
    graph_.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      try {
        graph_.capture_end();
      } catch (const std::exception&) {
        // Says only that the recording is broken; why is on its way out.
      }
      throw;
    }
    graph_.capture_end();
  }
  void replay() override { graph_.replay(); }

 private:
  at::cuda::CUDAGraph graph_;
};

class CudaGraphs : public GraphBackend {
 public:
  // The default stream cannot be recorded. Where work has run before, libraries have their
  // workspaces, so everything is on one stream.
  explicit CudaGraphs(int64_t index)
      : stream_(c10::cuda::getStreamFromPool(false, static_cast<c10::DeviceIndex>(index))),
        pool_(at::cuda::graph_pool_handle()) {}

  void run(const std::function<void()>& work) override {
    const c10::cuda::CUDAStream outside = c10::cuda::getCurrentCUDAStream(stream_.device_index());
    // A few times a training: the host may wait.
    outside.synchronize();
    {
      const c10::cuda::CUDAStreamGuard guard(stream_);
      work();
    }
    stream_.synchronize();
    // Nothing else runs on this stream: what the allocator keeps for it would lie idle.
    c10::cuda::CUDACachingAllocator::emptyCache();
  }

  std::unique_ptr<Recording> capture(const std::function<void()>& work) override {
    auto recording = std::make_unique<CudaRecording>();
    try {
      run([&] { recording->capture(pool_, work); });
    } catch (const c10::Error& error) {
      fail(ErrorCode::kRequest, "train.cuda_graphs: a pass cannot be recorded: {}; set it to false",
           error.what_without_backtrace());
    }
    return recording;
  }

 private:
  c10::cuda::CUDAStream stream_;
  c10::MempoolId_t pool_;
};

}  // namespace

std::unique_ptr<GraphBackend> make_cuda_graphs(int64_t index) {
  return std::make_unique<CudaGraphs>(index);
}

#else

std::unique_ptr<GraphBackend> make_cuda_graphs(int64_t) {
  fail(ErrorCode::kRequest,
       "train.cuda_graphs: this build is for CPUs: configure with -DASHLAR_TORCH_CUDA=ON");
}

#endif

}  // namespace ashlar
