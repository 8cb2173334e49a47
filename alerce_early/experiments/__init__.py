"""One run, a sweep, a search, an ensemble, a comparison, and the configs that make them."""
