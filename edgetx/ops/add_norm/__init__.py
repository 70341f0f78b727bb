"""Residual addition and layer normalization, in either order, in one pass. `README.md` defines them."""
