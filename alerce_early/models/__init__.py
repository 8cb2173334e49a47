"""Networks: plain torch modules without any training code."""
