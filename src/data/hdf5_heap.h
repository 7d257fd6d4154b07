// Texts and byte strings of variable length, without the library's reader for them.
//
// HDF5 keeps such values in "global heap collections", and libhdf5 1.10 reads beyond them or loops forever
// where they are damaged. So only the 16-byte references are taken from the library; the heap is read here,
// with every bound checked.
#pragma once

#include <array>

#include "data/hdf5_file.h"

namespace shallowpi::hdf5 {

/// As stored: length (4 bytes), address of the collection (8), index of the object in it (4); little-endian.
using HeapReference = std::array<std::uint8_t, 16>;

/// A memory type that makes H5Aread and H5Dread deliver values of variable length as HeapReference.
Handle heap_reference_type();

/// The bytes that a reference means; empty for a null reference. Throws CorruptError naming `name` where the
/// heap is damaged or the value is longer than `max_bytes`.
std::vector<std::uint8_t> read_heap(const RawFile& file, const HeapReference& reference,
                                    std::string_view name, std::size_t max_bytes);

}  // namespace shallowpi::hdf5
