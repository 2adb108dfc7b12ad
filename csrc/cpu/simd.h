// PCT_CLONES in front of a leaf function compiles it for AVX-512, AVX2 and plain x86-64; the loader picks at run time.
// It does not reach into functions that are not inlined, nor into lambdas handed to parallel_for: mark the leaf.
// With PCT_PORTABLE defined nothing is compiled for a particular processor: tests look at what other machines run.
// PCT_INLINE makes sure that a helper is inlined, and so compiled like the clone that calls it.
#pragma once
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(PCT_PORTABLE)
#define PCT_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PCT_CLONES
#endif
#if defined(__GNUC__)
#define PCT_INLINE inline __attribute__((always_inline))
#else
#define PCT_INLINE inline
#endif
