"""Many runs, here and elsewhere."""
