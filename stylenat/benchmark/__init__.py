"""Speed: the matmul time of this machine, the throughput of a generator, the cases of scripts/bench.py."""
