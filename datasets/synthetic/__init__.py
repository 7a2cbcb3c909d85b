"""Synthetic people: clothed bodies with exact parameters, rendered on the CPU."""
