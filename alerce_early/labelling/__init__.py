"""Label alerts in the browser: which alert comes next, the page, its server and the CSV of labels."""
