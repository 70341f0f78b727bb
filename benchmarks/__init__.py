"""Paired measurements against peers; `python -m benchmarks` runs them, results/ holds what they found."""
