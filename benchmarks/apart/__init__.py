"""Scripts that run in environments of their own, see `benchmarks.own_environments`."""
