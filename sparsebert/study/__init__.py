"""What recorded runs say: results, claims, intervals, heads."""
