"""Ours, its peers and the raw library side by side: `python -m benchmarks.peers`.

Every target gets the same questions, the same model folder, the same number of tokens and the
same BLAS, over its own protocol. One target runs at a time: it is started, warmed up, measured
and stopped, then the next one, round after round, so that nobody idles beside anybody and a
slow minute of the machine hits all of them.
"""
