// The engine that records the device work of a chunk once per shape and replays it.
#pragma once

#include <functional>
#include <list>

#include "runtime/static_chunk.h"

namespace shallowpi {

/// Makes `work`, which launches device work on buffers that stay, repeatable. The returned function repeats
/// it with what the buffers hold by then.
using Recorder = std::function<std::function<void()>(const std::function<void()>& work)>;

/// Was this program built to capture graphs, and is `device` a GPU?
bool cuda_graphs_available(torch::Device device);
/// Captures CUDA graphs. Throws UsageError where `device` is no GPU or this program was built without CUDA.
Recorder cuda_graph_recorder(torch::Device device);

/// Shapes of which an engine keeps the graph, unless it is told otherwise.
inline constexpr std::size_t kMaxGraphs = 8;

class GraphEngine : public Engine {
 public:
  /// At most `max_graphs` shapes are kept, those that were used last.
  GraphEngine(Policy policy, torch::Device device, Recorder recorder, std::size_t max_graphs = kMaxGraphs);

  EngineKind kind() const override { return EngineKind::kGraph; }
  torch::Tensor sample(const EngineRequest& request, StageTimes* times = nullptr) override;

 private:
  struct Graph {
    ChunkShape shape;
    StaticChunk chunk;
    std::function<void()> replay;
  };
  /// The graph of the request's shape, its buffers filled with the request.
  Graph& loaded(const EngineRequest& request);
  void record(const EngineRequest& request);

  Recorder recorder_;
  std::size_t max_graphs_;
  std::list<Graph> graphs_;  // the one that was used last first
};

}  // namespace shallowpi
