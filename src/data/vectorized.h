// Marks a function whose loops the compiler should vectorise for AVX2 too, chosen when the program is loaded.
// Other processors' baseline (NEON) has what the loops need. Sanitizers do not survive the loader's choice.
#pragma once

#if !defined(__x86_64__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHALLOWPI_VECTORIZED
#elif defined(__clang__)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SHALLOWPI_VECTORIZED
#else
#define SHALLOWPI_VECTORIZED __attribute__((target_clones("avx2", "default")))
#endif
#else
#define SHALLOWPI_VECTORIZED __attribute__((target_clones("avx2", "default"), optimize("O3")))
#endif
