"""Speed: the matmul time of this machine, the throughput of a generator, and the cases of scripts/bench.py."""
