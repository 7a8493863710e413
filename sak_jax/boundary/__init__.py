"""The boundary score (odsF, oisF, AP) in NumPy alone, so that worker processes import no JAX."""
