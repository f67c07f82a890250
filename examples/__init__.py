"""Small networks on real data, each run as ``python -m examples.<name>``; see the README."""
