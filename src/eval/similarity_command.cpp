#include <cmath>

#include "eval/layer_study.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/status_line.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

struct Rule {
  std::string name;
  std::vector<std::int64_t> order;  ///< dropped first, first
};

/// Most similar first. A layer without a value goes last.
Rule most_similar_first(const std::string& name, const std::vector<double>& similarity) {
  std::vector<double> distance;
  for (double value : similarity) distance.push_back(std::isnan(value) ? INFINITY : 1 - value);
  return {name, least_first(distance)};
}

std::vector<Rule> similarity_rules(const LayerSimilarity& similarity) {
  std::vector<double> backbone, expert, both;
  for (std::int64_t i = 0; i < similarity.layers(); ++i) {
    backbone.push_back(similarity.backbone(i).value_or(NAN));
    expert.push_back(similarity.expert(i));
    both.push_back(similarity.both(i));
  }
  return {most_similar_first("backbone", backbone), most_similar_first("expert", expert),
          most_similar_first("both", both)};
}

std::string similarity_tables(const LayerSimilarity& similarity, const std::vector<Rule>& rules,
                              std::int64_t keep) {
  const std::int64_t n = similarity.layers(), steps = similarity.steps();
  std::vector<std::string> header{"layer", "backbone", "expert"};
  for (std::int64_t k = 0; k <= steps; ++k)
    header.push_back(str("tau=", fixed(double(k) / double(steps), 2)));
  std::vector<std::vector<std::string>> rows;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto backbone = similarity.backbone(i);
    rows.push_back({str(i), backbone ? fixed(*backbone, 4) : "-", fixed(similarity.expert(i), 4)});
    for (std::int64_t k = 0; k <= steps; ++k) rows.back().push_back(fixed(similarity.expert(i, k), 4));
  }
  std::string text = str("Cosine similarity of a layer's input and output (expert: mean over the sampler's ",
                         steps, " steps, then at each tau)\n\n", text_table(header, rows), "\n");
  std::vector<std::vector<std::string>> ranking;
  for (const Rule& rule : rules)
    ranking.push_back({rule.name, join(rule.order, " "), layer_map_setting(kept_after(rule.order, n, keep))});
  return text +
         text_table({"ranked by", "most similar first", str("without the ", n - keep, " most similar")},
                    ranking);
}

Json rows_of(const torch::Tensor& matrix) {
  Json rows = Json::array();
  for (std::int64_t i = 0; i < matrix.size(0); ++i) {
    const torch::Tensor row = matrix[i].contiguous();
    rows.push_back(matrix.dim() > 2 ? rows_of(row)
                                    : Json(std::vector<double>(row.data_ptr<double>(),
                                                               row.data_ptr<double>() + row.numel())));
  }
  return rows;
}

Json similarity_json(const LayerSimilarity& similarity, const std::vector<Rule>& rules, Json report) {
  const auto keep = report["keep"].get<std::int64_t>();
  report["tau"] = Json::array();
  for (std::int64_t k = 0; k <= similarity.steps(); ++k)
    report["tau"].push_back(double(k) / double(similarity.steps()));
  report["backbone"] = rows_of(similarity.backbone_ii);
  report["expert"] = rows_of(similarity.expert_kii);
  report["adjacent"] = Json::array();
  for (std::int64_t i = 0; i < similarity.layers(); ++i) {
    const auto backbone = similarity.backbone(i);
    report["adjacent"].push_back({{"layer", i},
                                  {"backbone", backbone ? Json(*backbone) : Json(nullptr)},
                                  {"expert", similarity.expert(i)},
                                  {"both", similarity.both(i)}});
  }
  for (const Rule& rule : rules)
    report["rankings"][rule.name] = {{"most_similar_first", rule.order},
                                     {"kept", kept_after(rule.order, similarity.layers(), keep)}};
  return report;
}

}  // namespace

void run_similarity(const LayerStudyOptions& options) {
  LayerSubject subject(options);
  LayerSimilarity similarity;
  {
    StatusLine status(options.offline.quiet);
    MeasureOptions measure = options.offline.measure;
    measure.progress = [&](std::int64_t done, std::int64_t total) {
      status.show(str(done, " of ", total, " frames"));
    };
    similarity = layer_similarity(subject.policy(), subject.pipeline(), subject.samples(), measure);
  }
  if (!similarity.backbone_ii.isfinite().all().item<bool>() ||
      !similarity.expert_kii.isfinite().all().item<bool>())
    throw CorruptError(subject.folder().string() + ": its hidden states are not finite");
  const std::vector<Rule> rules = similarity_rules(similarity);
  finish_study(similarity_json(similarity, rules, subject.circumstances()),
               similarity_tables(similarity, rules, options.keep), options);
}

}  // namespace shallowpi
