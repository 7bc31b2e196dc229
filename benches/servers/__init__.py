"""The parts of bench_server.py: who is compared, what is asked, how it is measured and how it is told."""
