"""What the CPU kernels share: how they are compiled, threads, SIMD lanes and small linear algebra."""
