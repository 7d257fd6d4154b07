// Marks a function whose inner loops the compiler should vectorise for AVX2 too, chosen when the program is
// loaded. Other processors' baseline (NEON) has what the loops need. Sanitizers do not survive the loader's
// choice.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define SHALLOWPI_VECTORIZED __attribute__((target_clones("avx2", "default"), optimize("O3")))
#else
#define SHALLOWPI_VECTORIZED
#endif
