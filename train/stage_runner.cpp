#include "train/stage_runner.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>

#include "core/base/error.h"

namespace ashlar {

using at::Tensor;

// One stage's pass. Inputs and leaves (parameters and adapters) are leaves of the graph inside.
struct StageRunner::Frame {
  const RunnerPlan* plan = nullptr;
  size_t stage = 0;
  std::vector<size_t> parameters;  // as the stage lists them
  decltype(StageCall::body) body;
  std::vector<size_t> leaf_parameters;          // those, then their adapters
  std::vector<Tensor> inputs, leaves, outputs;  // outputs: empty when they are recomputed
  size_t output_count = 0;

  const Tensor& leaf(size_t parameter) const {
    const auto found = std::find(leaf_parameters.begin(), leaf_parameters.end(), parameter);
    return leaves[static_cast<size_t>(found - leaf_parameters.begin())];
  }

  // In the type of products, so that it does not matter in which type W is kept.
  Tensor effective(size_t parameter) const {
    const Tensor& weight = leaf(parameter);
    const auto& adapter = plan->adapters[parameter];
    if (!adapter) return weight;
    const Tensor update = at::mm(leaf(adapter->up), leaf(adapter->down)) * plan->adapter_scale;
    return weight.to(plan->compute) + update.to(plan->compute);
  }

  std::vector<Tensor> run() const {
    std::vector<Tensor> own;
    for (const size_t p : parameters) own.push_back(effective(p));
    return body(own, inputs);
  }

  void evaluate() {
    const at::AutoGradMode with_gradients(true);
    outputs = run();
  }
};

// The stage as the graph outside sees it: edges from its inputs, one output for each defined output
// that is differentiable.
struct StageRunner::Node : torch::autograd::Node {
  StageRunner* runner = nullptr;
  std::unique_ptr<Frame> frame;
  std::vector<size_t> slots;  // index into Frame::outputs of each output of the node

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    ASHLAR_CHECK(frame != nullptr);
    std::vector<Tensor> by_slot(frame->output_count);
    for (size_t i = 0; i < slots.size(); ++i) by_slot[slots[i]] = grads[i];
    auto result = runner->backward(*frame, by_slot);
    frame.reset();  // activations go as soon as they are used
    return result;
  }
  std::string name() const override { return "Stage"; }
};

StageRunner::StageRunner(std::vector<std::unique_ptr<ParameterUnit>>& units,
                         GradientReducer& reducer, RunnerPlan plan)
    : units_(units), reducer_(reducer), plan_(std::move(plan)), open_(units.size()) {
  ASHLAR_CHECK_EQ(plan_.stages.size(), plan_.recompute.size());
  for (const auto& parameters : plan_.stages) {
    std::vector<size_t> own;
    for (const size_t p : parameters) {
      own.push_back(plan_.places[p].unit);
      const auto& adapter = plan_.adapters[p];
      if (adapter) own.push_back(plan_.places[adapter->down].unit);
      if (adapter) own.push_back(plan_.places[adapter->up].unit);
    }
    std::sort(own.begin(), own.end());
    own.erase(std::unique(own.begin(), own.end()), own.end());
    units_of_stage_.push_back(std::move(own));
  }
}

StageRunner::~StageRunner() = default;

void StageRunner::begin_pass() { std::fill(open_.begin(), open_.end(), 0); }

const Tensor& StageRunner::value(size_t parameter) const {
  const ParameterPlace& place = plan_.places[parameter];
  return units_[place.unit]->view(place.part);
}

void StageRunner::acquire(size_t stage, Direction direction) {
  for (const size_t u : units_of_stage_[stage]) units_[u]->acquire();
  const bool forward = direction == Direction::kForward;
  if (forward ? stage + 1 == units_of_stage_.size() : stage == 0) return;
  for (const size_t u : units_of_stage_[forward ? stage + 1 : stage - 1]) {
    units_[u]->begin_gather();
  }
}

// What the next stage reads as well stays.
void StageRunner::release(size_t stage, Direction direction) {
  const bool forward = direction == Direction::kForward;
  const bool end = forward ? stage + 1 == units_of_stage_.size() : stage == 0;
  const size_t next = forward ? stage + 1 : stage - 1;
  for (const size_t u : units_of_stage_[stage]) {
    const bool kept =
        !end && std::binary_search(units_of_stage_[next].begin(), units_of_stage_[next].end(), u);
    if (!kept) units_[u]->release();
  }
}

std::unique_ptr<StageRunner::Frame> StageRunner::make_frame(const StageCall& call,
                                                            std::vector<Tensor> inputs) const {
  auto frame = std::make_unique<Frame>();
  frame->plan = &plan_;
  frame->stage = call.stage;
  frame->parameters.assign(call.parameters.begin(), call.parameters.end());
  frame->body = call.body;
  frame->leaf_parameters = frame->parameters;
  for (const size_t p : call.parameters) {
    const auto& adapter = plan_.adapters[p];
    if (adapter)
      frame->leaf_parameters.insert(frame->leaf_parameters.end(), {adapter->down, adapter->up});
  }
  for (const Tensor& t : inputs) {
    const bool wanted = t.defined() && t.requires_grad();
    frame->inputs.push_back(t.defined() ? t.detach().set_requires_grad(wanted) : Tensor());
  }
  for (const size_t p : frame->leaf_parameters) {
    frame->leaves.push_back(value(p).detach().set_requires_grad(plan_.trained[p]));
  }
  return frame;
}

// Whether a gradient can be wanted of this stage.
bool StageRunner::differentiable(const Frame& frame) const {
  const auto wanted = [](const Tensor& t) { return t.defined() && t.requires_grad(); };
  return std::any_of(frame.inputs.begin(), frame.inputs.end(), wanted) ||
         std::any_of(frame.leaves.begin(), frame.leaves.end(), wanted);
}

std::vector<Tensor> StageRunner::run(const StageCall& call, std::vector<Tensor> inputs) {
  if (call.parameters.empty()) return call.body({}, inputs);
  torch::autograd::edge_list edges;
  for (const Tensor& t : inputs) {
    edges.push_back(t.defined() ? torch::autograd::impl::gradient_edge(t)
                                : torch::autograd::Edge());
  }
  const ScopedSpan span(tracer_, "compute", "forward " + plan_.names[call.stage]);
  acquire(call.stage, Direction::kForward);
  auto frame = make_frame(call, std::move(inputs));
  if (!at::GradMode::is_enabled() || !differentiable(*frame)) {
    const at::NoGradGuard no_grad;
    std::vector<Tensor> outputs = frame->run();
    release(call.stage, Direction::kForward);
    return outputs;
  }
  const std::shared_ptr<Node> node(new Node, torch::autograd::deleteNode);
  node->runner = this;
  std::vector<Tensor> outputs;
  if (plan_.recompute[call.stage]) {
    const at::NoGradGuard no_grad;
    outputs = frame->run();
  } else {
    frame->evaluate();
    outputs = frame->outputs;
  }
  // The backward pass begins with the loss, so what it reads stays.
  if (call.stage + 1 < units_of_stage_.size()) release(call.stage, Direction::kForward);
  for (const size_t u : units_of_stage_[call.stage]) ++open_[u];
  frame->output_count = outputs.size();
  node->set_next_edges(std::move(edges));
  std::vector<Tensor> visible(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].defined()) continue;
    visible[i] = outputs[i].detach();
    torch::autograd::set_history(visible[i], node);
    node->slots.push_back(i);
  }
  node->frame = std::move(frame);
  return visible;
}

std::vector<Tensor> StageRunner::backward(Frame& frame, std::span<const Tensor> gradients) {
  const ScopedSpan span(tracer_, "compute", "backward " + plan_.names[frame.stage]);
  acquire(frame.stage, Direction::kBackward);
  if (frame.outputs.empty()) frame.evaluate();
  std::vector<Tensor> roots, seeds, targets;
  for (size_t i = 0; i < frame.outputs.size(); ++i) {
    if (!gradients[i].defined() || !frame.outputs[i].requires_grad()) continue;
    roots.push_back(frame.outputs[i]);
    seeds.push_back(gradients[i]);
  }
  for (const Tensor& t : frame.inputs) {
    if (t.defined() && t.requires_grad()) targets.push_back(t);
  }
  const size_t inputs = targets.size();
  for (const Tensor& leaf : frame.leaves) {
    if (leaf.requires_grad()) targets.push_back(leaf);
  }
  std::vector<Tensor> found(targets.size());
  if (!roots.empty()) {
    found = torch::autograd::grad(roots, targets, seeds, /*retain_graph=*/false,
                                  /*create_graph=*/false, /*allow_unused=*/true);
  }
  frame.outputs.clear();
  release(frame.stage, Direction::kBackward);
  add_gradients(frame, std::span(found).subspan(inputs));
  std::vector<Tensor> result(frame.inputs.size());
  for (size_t i = 0, next = 0; i < result.size(); ++i) {
    const Tensor& t = frame.inputs[i];
    if (t.defined() && t.requires_grad()) result[i] = std::move(found[next++]);
  }
  return result;
}

void StageRunner::add_gradients(const Frame& frame, std::span<const Tensor> gradients) {
  const at::NoGradGuard no_grad;
  size_t next = 0;
  for (const size_t p : frame.leaf_parameters) {
    if (!plan_.trained[p]) continue;
    const Tensor& gradient = gradients[next++];
    const ParameterPlace& place = plan_.places[p];
    if (gradient.defined()) reducer_.add(place.unit, place.part, gradient);
  }
  for (const size_t u : units_of_stage_[frame.stage]) {
    if (--open_[u] == 0 && u < reducer_.units()) reducer_.done(u);
  }
}

}  // namespace ashlar
