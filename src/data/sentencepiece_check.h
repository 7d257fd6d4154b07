// The checks of a SentencePiece model that the library does not make. It follows offsets of the model's
// normaliser table wherever they lead, ends the process on pieces that cannot form a tree, and writes past an
// array where more than 64 pieces begin alike. PaliGemma's model has none of these.
#pragma once

#include <string>
#include <string_view>

namespace shallowpi {

/// What is wrong with the bytes of `model`; empty where the library can be trusted with them.
std::string sentencepiece_problem(std::string_view model);

}  // namespace shallowpi
