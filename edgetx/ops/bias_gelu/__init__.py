"""The exact GELU of a sum with a bias, in one pass; `README.md` has the mathematics."""
