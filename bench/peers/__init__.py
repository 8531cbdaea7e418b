"""What the benchmarks compare with: the same work done plainly with other parts."""
