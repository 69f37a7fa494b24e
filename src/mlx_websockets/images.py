"""Pictures as they arrive to checked, upright RGB of a bounded size."""
