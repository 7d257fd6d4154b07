// The PaliGemma SentencePiece tokenizer and the prompts that it encodes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "shallowpi/base/policy_spec.h"

namespace shallowpi {

/// Safe to use from several threads at once.
class Tokenizer {
 public:
  /// Throws UsageError where the file is missing, CorruptError where it is not a
  /// SentencePiece model or has no bos.
  explicit Tokenizer(const std::filesystem::path& model);
  ~Tokenizer();
  /// Piece ids without bos or eos.
  std::vector<std::int64_t> encode(const std::string& text) const;
  std::int64_t bos() const;
  std::int64_t vocab_size() const;
  const std::filesystem::path& path() const { return path_; }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::filesystem::path path_;
};

/// `explicit_path` (which must exist then), else `checkpoint_path` (the model, or the folder that
/// holds tokenizer.model), else openpi's cache, else the Hugging Face cache of
/// google/paligemma-3b-pt-224; OPENPI_DATA_HOME, HF_HOME and HF_HUB_CACHE are honoured. Throws
/// UsageError with the command that fetches it.
std::filesystem::path find_tokenizer(const std::string& explicit_path,
                                     const std::filesystem::path& checkpoint_path);

/// Whether nothing is left of an instruction that is stripped as Python's str.strip() does.
bool is_blank(std::string_view text);
/// The prompt's text after bos, in the parts that are encoded one by one. `state` is the normalised, unpadded
/// policy state (read by the pi05_state modes).
std::vector<std::string> prompt_parts(const PolicySpec& spec, const std::string& text,
                                      const std::vector<float>& state);
/// All ids of prompt_parts, bos first, also beyond spec.max_token_len.
std::vector<std::int64_t> encode_prompt(const Tokenizer& tokenizer, const PolicySpec& spec,
                                        const std::string& text, const std::vector<float>& state);

/// openpi's 256 bins over [-1, 1]: floor((x + 1) * 128) clamped to [-1, 255], so -1 is "below the range".
std::int64_t state_bin(double value);

}  // namespace shallowpi
