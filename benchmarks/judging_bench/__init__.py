"""Parts of `benchmarks/judging_validity.py`: the judges that are simulated, and the tables about agreement."""
