"""Metrics, intervals, figures and the page, all from the predictions table alone."""
