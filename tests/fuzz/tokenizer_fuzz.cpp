// Input: the length of a prompt (one byte), the prompt, a SentencePiece model.
#include <algorithm>

#include "fuzz.h"
#include "shallowpi/data/tokenizer.h"

namespace shallowpi {
namespace {}  // namespace

void fuzz::run(std::string_view input) {
  if (input.empty()) return;
  const std::size_t length = std::min<std::size_t>(static_cast<unsigned char>(input[0]), input.size() - 1);
  const std::string prompt(input.substr(1, length));
  const std::filesystem::path model = fuzz::input_file(input.substr(1 + length));
  fuzz::accepts([&] {
    const Tokenizer tokenizer(model);
    for (const PromptMode mode : {PromptMode::kPi0Plain, PromptMode::kPi05StatePadded32}) {
      PolicySpec spec;
      spec.prompt_mode = mode;
      const auto ids = encode_prompt(tokenizer, spec, prompt, {-2.0f, -1.0f, 0.25f, 1.0f});
      fuzz::require(!ids.empty() && ids.front() == tokenizer.bos(), "a prompt begins with bos");
      for (const std::int64_t id : ids)
        fuzz::require(id >= 0 && id < tokenizer.vocab_size(), "an id is of the vocabulary");
    }
  });
}

}  // namespace shallowpi
