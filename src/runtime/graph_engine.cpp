#include "runtime/graph_engine.h"

#include <torch/torch.h>

#include <algorithm>

#include "runtime/inference_settings.h"

namespace shallowpi {

GraphEngine::GraphEngine(Policy policy, torch::Device device, Recorder recorder, std::size_t max_graphs)
    : Engine(std::move(policy), device), recorder_(std::move(recorder)), max_graphs_(max_graphs) {}

torch::Tensor GraphEngine::sample(const EngineRequest& request, StageTimes* times) {
  const torch::InferenceMode guard;
  if (times != nullptr) *times = {};
  Graph& graph = loaded(pad_to_bucket(request));
  graph.replay();
  return graph.chunk.result()
      .narrow(0, 0, request.observation.batch_size())
      .to(torch::kCPU, torch::kFloat32, /*non_blocking=*/false, /*copy=*/true);
}

GraphEngine::Graph& GraphEngine::loaded(const EngineRequest& request) {
  const ChunkShape shape = shape_of(request);
  const auto known =
      std::find_if(graphs_.begin(), graphs_.end(), [&](const Graph& graph) { return graph.shape == shape; });
  if (known == graphs_.end()) {
    record(request);
  } else {
    graphs_.splice(graphs_.begin(), graphs_, known);
    known->chunk.load(request);
  }
  return graphs_.front();
}

void GraphEngine::record(const EngineRequest& request) {
  const ChunkShape shape = shape_of(request);
  std::list<Graph> fresh;
  fresh.push_back({shape, StaticChunk(policy_, device_, shape, conditioning(shape.steps)), nullptr});
  Graph& graph = fresh.front();
  graph.chunk.load(request);  // refuses what does not fit before an old graph has to go
  while (graphs_.size() >= max_graphs_) graphs_.pop_back();
  const InferenceSettings settings(policy_, device_);
  graph.replay = recorder_([&chunk = graph.chunk] { chunk.run(); });
  graphs_.splice(graphs_.begin(), fresh);
}

}  // namespace shallowpi
