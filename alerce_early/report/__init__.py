"""Draw figures and write the HTML pages."""
