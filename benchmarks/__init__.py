"""What heartnet costs, beside the best there is: `python -m benchmarks`, or `make bench`, prints one table."""
